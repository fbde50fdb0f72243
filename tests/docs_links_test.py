"""Every relative link of our Markdown files names a file and a heading that exist."""

import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
LINK = re.compile(r"\]\(\s*([^)\s]+)\s*\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def anchor(heading):
    """The name that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def broken_links(path, text):
    """The links in the text of the Markdown file `path` that lead nowhere."""
    broken = []
    for link in LINK.findall(text):
        if "://" in link:
            continue
        name, _, fragment = link.partition("#")
        target = path.parent / name
        if name and not target.exists():
            broken.append(f"{path.name}: {link}: no such file")
            continue
        headings = map(anchor, HEADING.findall(target.read_text() if name else text)) if fragment else []
        if fragment and fragment not in headings:
            broken.append(f"{path.name}: {link}: no such heading")
    return broken


def test_every_link_leads_somewhere():
    names = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [ROOT / name for name in names.stdout.split()]
    assert len(files) > 20
    assert [link for file in files for link in broken_links(file, file.read_text())] == []


def test_a_link_that_leads_nowhere_is_seen():
    text = "# A `kv` page, hot\n[a](missing.md) [b](#a-kv-page-hot) [c](#a-page) [d](https://a.b/c) [e](README.md#no)\n"
    assert broken_links(ROOT / "TEXT.md", text) == [
        "TEXT.md: missing.md: no such file",
        "TEXT.md: #a-page: no such heading",
        "TEXT.md: README.md#no: no such heading",
    ]
