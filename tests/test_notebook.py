"""docs/quickstart.ipynb: it runs, in fewer steps, and what is committed was run to its end."""

import nbformat

from tests.notebook import NOTEBOOK, executed, tidied

QUICK = {
    '("lora", "reslora_is")': '("reslora_is",)',
    "--max_train_steps 240": "--max_train_steps 1 --validation_inference_steps 1 --calibration_samples 4",
    "num_inference_steps=20": "num_inference_steps=1",
}


def drawn(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_it_runs_from_pictures_to_a_lora_file(tmp_path):
    notebook = executed(tmp_path, QUICK)
    assert (tmp_path / "runs" / "reslora_is" / "pytorch_lora_weights.safetensors").is_file()
    assert drawn(notebook) == 3


def test_the_committed_one_was_run_in_order_without_errors():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert all(output.output_type != "error" for output in outputs)
    assert drawn(notebook) == 4
    assert NOTEBOOK.stat().st_size < 1_000_000
    assert "/tmp/" not in NOTEBOOK.read_text(encoding="utf-8") and "/work/" not in NOTEBOOK.read_text(encoding="utf-8")


def test_of_a_bar_its_last_state_is_kept():
    output = nbformat.v4.new_output("stream", text="\rbar 10 %\rbar 100 %\nLine\r\n")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=[output])])
    assert tidied(notebook).cells[0].outputs[0].text == "bar 100 %\nLine\n"
