"""A hook of MkDocs: README is the site's first page, and files of the repository that pages show or link to come along.

Pages link to recipes, results and source as files beside ``docs/``, as GitHub shows them. On the site these files lie
under ``repository/``.
"""

import posixpath
import re
import subprocess
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = "repository"
_LINK = re.compile(r"(\]\()(?!https?:|#|mailto:)([^)\s]+)(\))")


def on_files(files, config):
    """Add README as ``index.md`` and the repository's documents, pictures and sources under ``repository/``."""
    files.append(File.generated(config, "index.md", content=(ROOT / "README.md").read_text(encoding="utf-8")))
    names, folders = _linked()
    for folder in sorted(folders):
        inside = sorted(path.name for path in (ROOT / folder).iterdir() if path.is_file())
        names |= {f"{folder}/{name}" for name in inside}
        lines = [f"# {folder}", "", *(f"- [{name}]({name})" for name in inside)]
        files.append(File.generated(config, f"{OUTSIDE}/{folder}/index.md", content="\n".join(lines)))
    for name in sorted(names):
        files.append(File.generated(config, f"{OUTSIDE}/{name}", abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turn links that are right in the repository into those of the site."""
    here = _in_repository(page.file.src_uri)
    return _LINK.sub(lambda link: link[1] + _on_site(link[2], here, page.file.src_uri) + link[3], markdown)


def _in_repository(page: str) -> str:
    if page == "index.md":
        return "README.md"
    return page.removeprefix(f"{OUTSIDE}/") if page.startswith(f"{OUTSIDE}/") else f"docs/{page}"


def _on_site(link: str, here: str, page: str) -> str:
    target, mark, part = link.partition("#")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
    if (ROOT / path / "README.md").is_file():
        path = f"{path}/README.md"
    elif (ROOT / path).is_dir():
        path = f"{path}/index.md"
    place = "index.md" if path == "README.md" else path.removeprefix("docs/")
    if not path.startswith("docs/") and path != "README.md":
        place = f"{OUTSIDE}/{path}"
    return posixpath.relpath(place, posixpath.dirname(page) or ".") + mark + part


def _linked() -> tuple[set[str], set[str]]:
    """Files and folders outside ``docs/`` that documents link to, and the recipes' own documents."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    documents = {name for name in tracked.splitlines() if name.endswith(".md")}
    files = {name for name in documents if name.startswith(("egs/", "benchmarks/"))}
    folders: set[str] = set()
    for name in documents:
        for link in _LINK.findall((ROOT / name).read_text(encoding="utf-8")):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(name), link[1].partition("#")[0]))
            if (ROOT / path / "README.md").is_file():
                files.add(f"{path}/README.md")
            elif (ROOT / path).is_dir():
                folders.add(path)
            elif (ROOT / path).is_file():
                files.add(path)
    outside = {name for name in files if not name.startswith("docs/") and name != "README.md"}
    return outside, {folder for folder in folders if not folder.startswith((".", "docs"))}
