"""Which of Gradio's styles the page brings along."""

from app.gradio_files import styles


def test_styles_are_those_that_the_pages_scripts_name_in_one_order_and_without_those_that_need_their_place(tmp_path):
    assets = tmp_path / "assets"
    assets.mkdir()
    (tmp_path / "index.html").write_text('<script src="./assets/main.js"></script><link href="./assets/z.css">')
    row = "row:{component:()=>v(()=>import(`./R.js`),__vite__mapDeps([0]),import.meta.url)}"
    other = "tab:{component:()=>v(()=>import(`./T.js`),__vite__mapDeps([1]),import.meta.url)}"
    (assets / "main.js").write_text(f'm.f=["./a.css","./other.css"])x={{{row},{other}}}')
    (assets / "R.js").write_text('import"./S.js";import"./gone.js";')
    (assets / "S.js").write_text('m.f=["./far.css"]);l(()=>import(`./Blocks-x.js`),__vite__mapDeps([0]))')
    for name, style in (("z", ".z{}"), ("a", ".a{}"), ("other", ".o{}"), ("far", "x{src:url(./font.woff)}")):
        (assets / f"{name}.css").write_text(style)
    found = styles(tmp_path, ["row"])
    assert list(found.items()) == [("/assets/z.css", ".z{}"), ("/assets/a.css", ".a{}")]
    assert list(styles(tmp_path, ["row"], most=4)) == ["/assets/z.css"]
    assert styles(tmp_path / "none", ["row"]) == {}
