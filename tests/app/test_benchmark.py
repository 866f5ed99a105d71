"""The figures of the issue, in the processor's time: other programs on the machine don't count."""

import time

from app.benchmark import load, measure, percentile
from app.gradio_files import component_scripts


def test_a_run_of_5000_pictures_opens_in_two_seconds_and_moves_in_a_tenth():
    figures = measure(clock=time.process_time)
    assert figures["open"] < 2, figures
    assert figures["picture, median"] < 0.1, figures


def test_three_visitors_at_once_open_the_page_and_move(tmp_path):
    """By the code of `python -m app.benchmark --visitors`. Its goals are for a quiet machine; these bounds for any."""
    figures = load(visitors=3, moves=6, steps=20, prompts=2, side=16, pause=0.05)
    assert figures["requests of opening"] < 120 and figures["kilobytes of opening"] < 600, figures
    assert 0 < figures["first pictures, median"] <= figures["opening, median"] < 30, figures
    assert 0 <= figures["moving a step, median"] < 5, figures


def test_the_95th_percentile_is_the_least_that_95_of_100_don_t_exceed():
    assert percentile(range(1, 101)) == 95 and percentile([7.0]) == 7.0 and percentile([1, 2]) == 2


def test_a_visitor_asks_for_the_components_of_the_page_with_what_they_import():
    text = (
        'm.f=["./a.js","./b.css","./c.js"])x={row:{component:()=>v(()=>import(`./R.js`),__vite__mapDeps([0,1]),'
        "import.meta.url)},tab:{component:()=>v(()=>import(`./T.js`),__vite__mapDeps([2]),import.meta.url)}}"
    )
    assert component_scripts(text, ["row"]) == {"R.js", "a.js", "b.css"}
    main = 'm.f=["./a.js","./b.css"]);l(()=>import(`./Blocks-x.js`),__vite__mapDeps([1]))'
    assert component_scripts(main, ["row"]) == {"Blocks-x.js", "b.css"}
