"""The site: formulas are drawn, nothing is fetched, and every link leads to something."""

import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from ribkit.results import site
from ribkit.runtime.errors import InputError

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)
RECORD = {
    "date": "2021-12-06T10:00:00+00:00",
    "commit": "0123456789abcdef",
    "parameters": {"profile": "mini", "data": "", "overrides": {"steps": "5", "lrs": "1e-6"}},
}
FORMULAS = (
    r"$y_c$",
    r"$\max_u M_c < \tau$",
    r"$$\textstyle \sum_c t_c \frac{1}{HW} \left( \mathrm{ReLU}(w_c) \right)$$",
    "$$\\begin{aligned}\na &= b \\\\\nc &= d\n\\end{aligned}$$",
    "\\begin{align*}\na &= b\n\\end{align*}",
)


class Reader(HTMLParser):
    """What a page says outside code, what it names, and what can be named in it."""

    def __init__(self, page):
        super().__init__()
        self.text, self.links, self.loaded, self.ids, self.tags = "", [], [], set(), []
        self.alt, self._open = [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        self.ids.add(given.get("id"))
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        else:
            self.loaded += [given[name] for name in ("src", "srcset", "href") if name in given]
        if tag == "img":
            self.alt.append(given["alt"])
        if tag in ("pre", "code", "style"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        if self._open and tag == self._open[-1]:
            self._open.pop()

    def handle_data(self, data):
        if not self._open:
            self.text += data


def page(text, file="README.md", pages=None):
    """The page of some Markdown, read."""
    notebook = new_notebook(cells=[new_markdown_cell(f"# A title\n\n{text}")])
    return Reader(site.page(notebook, file, pages or {})[0])


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_formula_is_drawn_by_the_browser(formula):
    read = page(f"Here {formula} is." if formula[1] != "$" else formula)
    assert read.tags.count("math") == 1
    assert not re.search(r"[$\\&]", read.text)


def test_a_formula_in_an_output_is_drawn_and_dollars_in_code_stay():
    shown = new_output("display_data", {"text/markdown": r"where $\tau > 0$"})
    printed = new_output("stream", name="stdout", text="costs $5, then $6")
    cell = new_code_cell("print('$5')", outputs=[printed, shown])
    text = "`$PROFILE` is $x$\n\n    $ make site"
    notebook = new_notebook(cells=[new_markdown_cell(f"# {text}"), cell])
    made, _ = site.page(notebook, "notebooks/01.ipynb", {})
    assert Reader(made).tags.count("math") == 2
    assert "$" not in Reader(made).text
    assert "costs $5, then $6" in made
    assert "$PROFILE" in made
    assert "$ make site" in made


def test_a_formula_that_is_none_is_refused_by_name():
    with pytest.raises(InputError, match=r"docs/a.md: correct the formula '\\fraq\{1\}' \(.*fraq"):
        page(r"$\fraq{1}$", "docs/a.md")


def test_the_formulas_of_docstrings_are_latex():
    found = []
    for path in (ROOT / "ribkit").rglob("*.py"):
        text = path.read_text()
        found += re.findall(
            r"\.\. math:: *(.*\n(?:\n| {8}.*\n)*?)(?=\n? {4}\S|\n* {4}\"\"\")", text
        )
        found += re.findall(r":math:`(.*?)`", text)
    assert len(found) > 20
    for formula in found:
        site.LATEX.convert_with_local_state(formula, displaystyle=True)


def test_pictures_lie_in_the_page_and_are_described():
    data = {"image/png": PIXEL}
    outputs = [
        new_output(
            "display_data", data, metadata={"image/png": {"width": 3, "alt": "figure a & b"}}
        ),
        new_output("display_data", data),
    ]
    (picture, *_) = sorted((ROOT / "figures" / "mini").glob("*.png"))
    text = f"# Pictures\n\n![from here](../figures/mini/{picture.name})"
    notebook = new_notebook(cells=[new_markdown_cell(text), new_code_cell("", outputs=outputs)])
    read = Reader(site.page(notebook, "docs/a.md", {})[0])
    assert read.alt == ["from here", "figure a & b", "figure"]
    assert [source[:22] for source in read.loaded] == ["data:image/png;base64,"] * 3


PAGES = {"README.md": "README.html", "docs/a.md": "a.html", "notebooks/01_b.ipynb": "01_b.html"}


@pytest.mark.parametrize(
    ("file", "url", "address"),
    [
        ("README.md", "docs/a.md", "a.html"),
        ("README.md", "notebooks/01_b.ipynb#Is-it?", "01_b.html#Is-it?"),
        ("docs/a.md", "../README.md#two-words", "README.html#two-words"),
        ("notebooks/01_b.ipynb", "01_b.ipynb", "01_b.html"),
        ("notebooks/01_b.ipynb", "#here", "#here"),
        ("docs/a.md", "https://arxiv.org/abs/2110.06530", "https://arxiv.org/abs/2110.06530"),
        ("docs/a.md", "../ribkit/results/site.py", "ribkit/results/site.py"),
        ("docs/a.md", "../ribkit", None),
        ("docs/a.md", "missing.md", None),
        ("docs/a.md", "../../elsewhere", None),
    ],
)
def test_a_link_leads_to_a_page_to_a_file_or_is_text(file, url, address):
    read = page(f"see [that]({url}).", file, PAGES)
    assert "see that." in read.text
    linked = [link for link in read.links[len(PAGES) :] if link.lower() != "#a-title"]
    assert linked == ([address] if address else [])


def test_files_that_are_linked_are_told():
    notebook = new_notebook(cells=[new_markdown_cell("# T\n\n[a](CITATION.cff) [b](docs/a.md)")])
    assert site.page(notebook, "README.md", PAGES)[1] == {"CITATION.cff"}
    assert site.page(notebook, "README.md", {})[1] == set()  # a report alone has none beside it


@pytest.mark.parametrize(
    ("file", "anchor"), [("docs/a.md", "what-is-it-a--b"), ("01.ipynb", "What-is-it?-A-&-B")]
)
def test_headings_have_the_anchors_that_links_to_them_use(file, anchor):
    read = page("## What is it? A & B", file)
    assert anchor in read.ids
    assert f"#{anchor}" in read.links


def test_the_report_alone_has_no_navigation():
    assert "nav" not in page("").tags
    assert "nav" in page("", pages=PAGES).tags


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The site of the committed notebooks: its folder, and each of its pages, read."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "old.html").write_text("of a page that is gone")
    runs = {f"notebooks/{path.name}": nbformat.read(path, as_version=4) for path in NOTEBOOKS}
    for run in runs.values():
        run.metadata["ribkit"] = RECORD
    site.build(runs, folder)
    return folder, {path.name: Reader(path.read_text()) for path in folder.glob("*.html")}


def test_every_page_is_there_and_shows_no_formula_as_text(made):
    _, pages = made
    docs = {"README.html", *(f"{path.stem}.html" for path in (ROOT / "docs").glob("*.md"))}
    assert set(pages) == {"index.html", *docs, *(f"{path.stem}.html" for path in NOTEBOOKS)}
    assert not [name for name, read in pages.items() if "$" in read.text]


def test_no_page_loads_or_runs_anything(made):
    folder, pages = made
    for name, read in pages.items():
        assert not {"script", "link", "iframe"} & set(read.tags), name
        assert all(source.startswith("data:image/") for source in read.loaded), name
        text = (folder / name).read_text()
        assert "default-src 'none'" in text
        assert not re.findall(r"""(?:import|url)[\s("']*https?:""", text), name


def test_every_link_leads_somewhere(made):
    folder, pages = made
    for name, read in pages.items():
        for link in map(urlsplit, read.links):
            if link.scheme:
                continue
            target = unquote(link.path) or name
            assert (folder / target).is_file(), f"{name}: {target}"
            if link.fragment:
                anchors = {link.fragment, unquote(link.fragment)}
                assert anchors & pages[target].ids, f"{name}: {target}#{link.fragment}"


def test_the_index_names_the_run_and_what_each_notebook_asks(made):
    _, pages = made
    assert "mini steps=5 lrs=1e-6" in (made[0] / "index.html").read_text()
    assert "run on 2021-12-06" in pages["index.html"].text
    for path in NOTEBOOKS:
        question = site.title(nbformat.read(path, as_version=4))
        assert question in pages["index.html"].text
        assert f"{path.stem}.html" in pages["index.html"].links
    assert len(pages["index.html"].alt) == 1


def test_a_notebook_that_did_not_end_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(site, "opened", lambda options: SimpleNamespace(folder=tmp_path))
    assert site.main([]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line == f"{tmp_path / NOTEBOOKS[0].name} did not run to its end; run make reproduce first."
    )


@pytest.mark.parametrize(
    ("options", "target"), [([], "site/index.html"), (["--report"], "report.html")]
)
def test_the_command_writes_the_site_or_the_report(tmp_path, monkeypatch, capsys, options, target):
    runs = {"notebooks/01_a.ipynb": new_notebook(cells=[new_markdown_cell("# What?")])}
    runs |= {"notebooks/02_b.ipynb": new_notebook(cells=[new_markdown_cell("# [a](01_a.ipynb)")])}
    runs["notebooks/02_b.ipynb"].metadata["ribkit"] = RECORD
    (tmp_path / "build").mkdir()
    (tmp_path / "README.md").write_text("# Why?")
    monkeypatch.setattr(site, "ROOT", tmp_path)
    monkeypatch.setattr(site, "opened", lambda options: SimpleNamespace(folder=tmp_path))
    (tmp_path / "notebooks").mkdir()
    for name in runs:
        (tmp_path / name).touch()

    def executed(folder, sources):  # for the report only the last needs to have run
        names = [source.relative_to(tmp_path).as_posix() for source in sources]
        return {name: runs[name] for name in names}

    monkeypatch.setattr(site, "executed", executed)
    assert site.main(options) == 0
    assert capsys.readouterr().out == f"Open build/{target} in a browser.\n"
    read = Reader((tmp_path / "build" / target).read_text())
    assert ("01_a.html" in read.links) is (not options)
    assert not read.loaded
