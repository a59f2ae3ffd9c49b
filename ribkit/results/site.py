"""The study as pages that open without a network: ``build/site/index.html``.

    python -m ribkit.results.site --profile mini

The executed notebooks, README.md and ``docs/`` in JupyterLab's look, by nbconvert; pictures lie in
the page. A formula becomes MathML, which browsers draw themselves. A link to a file of the project
leads to its page, or to a copy of the file beside the pages; one to anything else becomes text.
"""

import html
import posixpath
import re
import shutil
import sys
from collections.abc import Iterable
from itertools import starmap
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
from math_core import LatexError, LatexToMathML
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_notebook

from ribkit.runtime import notebooks
from ribkit.runtime.command import command
from ribkit.runtime.errors import InputError
from ribkit.study.command_line import opened, parser
from ribkit.study.inputs import ROOT

TEMPLATE = Path(__file__).with_name("page.html.j2")
LATEX = LatexToMathML(fancy_error=False)
ANCHOR = re.compile(r'(?<= id=")[^"]+|(?<= href="#)[^"]+')
INDEX = "index.md"  # made, not read


class Renderer(IPythonRenderer):
    """HTML of Markdown that stands in a file of the project.

    Args:
        file: Its path in the project, which its links and pictures start from.
        pages: Files of the project -> their addresses in the site.
    """

    def __init__(self, file: str, pages: dict[str, str]):
        super().__init__(escape=False, embed_images=True, path=str(ROOT))
        self.file, self.pages = file, pages
        self.copies: set[str] = set()  # files that are no page, and are linked

    def inline_math(self, body: str) -> str:
        return self._mathml(body, displaystyle=False)

    def block_math(self, body: str) -> str:
        return self._mathml(body, displaystyle=True)

    def latex_environment(self, name: str, body: str) -> str:
        return self._mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", displaystyle=True)

    def _mathml(self, latex: str, displaystyle: bool) -> str:
        try:
            return LATEX.convert_with_local_state(latex.strip(), displaystyle=displaystyle)
        except LatexError as error:
            raise InputError(f"{self.file}: correct the formula '{latex}' ({error})") from error

    def image(self, text: str, url: str, title: str | None = None) -> str:
        return super().image(text, url if urlsplit(url).scheme else self._project(url), title)

    def link(self, text: str, url: str, title: str | None = None) -> str:
        address = self._address(url)
        return super().link(text, address, title) if address else text

    def heading(self, text: str, level: int, **attrs) -> str:
        """A heading with the id that Jupyter gives it, or in a ``.md`` file GitHub."""
        made = super().heading(text, level, **attrs)
        return made if self.file.endswith(".ipynb") else ANCHOR.sub(_as_on_github, made)

    def _project(self, url: str) -> str:
        """The path in the project of what a link from this file names."""
        path = unquote(urlsplit(url).path)
        return posixpath.normpath(posixpath.join(posixpath.dirname(self.file), path))

    def _address(self, url: str) -> str:
        """Where a link leads in the site; empty if nowhere."""
        parts = urlsplit(url)
        if parts.scheme or not parts.path:
            return url
        file = self._project(url)
        if file in self.pages:
            return parts._replace(path=self.pages[file]).geturl()
        if self.pages and not file.startswith("..") and (ROOT / file).is_file():
            self.copies.add(file)
            return file
        return ""


def _as_on_github(anchor: re.Match) -> str:
    """``Your-own-images?`` -> ``your-own-images``."""
    return re.sub(r"[^\w-]", "", html.unescape(unquote(anchor[0]))).lower()


def page(notebook: NotebookNode, file: str, pages: dict[str, str]) -> tuple[str, set[str]]:
    """The HTML of what is, or stands for, a file of the project; what it links that is no page."""
    renderer = Renderer(file, pages)
    exporter = HTMLExporter(
        template_file=str(TEMPLATE),
        filters={"markdown2html": MarkdownWithMath(renderer).render},
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    name = re.sub(r"[*`$]", "", title(notebook))
    resources = {"metadata": {"name": name}, "file": file, "pages": pages}
    return exporter.from_notebook_node(notebook, resources)[0], renderer.copies


def title(notebook: NotebookNode) -> str:
    """A notebook's first line, in Markdown."""
    return notebook.cells[0].source.split("\n")[0].lstrip("# ")


def build(runs: dict[str, NotebookNode], target: Path) -> None:
    """Write a page for each executed notebook, README.md and each of ``docs/``, and an index."""
    docs = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    texts = {path.relative_to(ROOT).as_posix(): _markdown(path.read_text()) for path in docs}
    contents = {INDEX: _index(runs, texts)} | runs | texts
    pages = {file: f"{Path(file).stem}.html" for file in contents}
    made = {file: page(content, file, pages) for file, content in contents.items()}
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for file, (text, copies) in made.items():
        (target / pages[file]).write_text(text)
        for copy in copies:
            (target / copy).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / copy, target / copy)


def _index(runs: dict[str, NotebookNode], texts: dict[str, NotebookNode]) -> NotebookNode:
    """The README's title and first picture, which run this is, and what each page is about."""
    readme, (*_, report) = texts["README.md"], runs.values()
    picture = re.search(r"^!\[.*?\]\(.*?\)", readme.cells[0].source, re.MULTILINE)
    record = report.metadata[notebooks.RECORD]
    given = record["parameters"]
    settings = [given["profile"], *starmap("{}={}".format, given["overrides"].items())]
    lines = [
        f"# {title(readme)}",
        picture[0] if picture else "",
        f"`{' '.join(settings)}`, run on {record['date'][:10]}, commit `{record['commit'][:12]}`.",
        "## Notebooks",
        *(f"{file[10:12]}. [{title(run)}]({file})" for file, run in runs.items()),
        "## Documentation",
        *(f"- [{file}]({file}): {title(text)}" for file, text in texts.items()),
    ]
    return _markdown("\n\n".join(lines))


def _markdown(text: str) -> NotebookNode:
    return new_notebook(cells=[new_markdown_cell(text)])


def executed(folder: Path, sources: Iterable[Path]) -> dict[str, NotebookNode]:
    """A run's notebooks, by their paths in the project.

    Raises InputError for one that did not run to its end.
    """
    found = {}
    for path in sources:
        run = folder / path.name
        if notebooks.recorded(run, folder / "figures") is None:
            raise InputError(f"{run} did not run to its end; run make reproduce first.")
        found[path.relative_to(ROOT).as_posix()] = nbformat.read(run, as_version=4)
    return found


@command("the site")
def main(argv: list[str] | None = None) -> None:
    """Write the site, or the report alone."""
    arguments = parser("ribkit.results.site", __doc__)
    arguments.add_argument(
        "--report", action="store_true", help="write the last notebook only, as build/report.html"
    )
    options = arguments.parse_args(argv)
    sources = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    runs = executed(opened(options).folder, sources[-1:] if options.report else sources)
    if options.report:
        target = ROOT / "build" / "report.html"
        ((file, report),) = runs.items()
        target.write_text(page(report, file, {})[0])
    else:
        target = ROOT / "build" / "site" / "index.html"
        build(runs, target.parent)
    print(f"Open {target.relative_to(ROOT)} in a browser.")


if __name__ == "__main__":
    sys.exit(main())
