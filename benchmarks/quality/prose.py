"""Natural text: the novels of Jane Austen, in the public domain, from Debian's r-cran-janeaustenr."""

import os
import pathlib
import re
import struct
import subprocess
import tarfile
import tempfile
import zlib

PACKAGE = "r-cran-janeaustenr"
FRONT_MATTER = 2000  # characters: title, contents


def cache_folder():
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "thermocline" / "prose"


def character_vectors(database):
    """The vectors of strings in an R lazy-load database: a length and a zlib stream after each other.

    Each holds one value as R serialises it (XDR): 14 bytes that say so, 4 and the name of the encoding, then
    type 16 (a vector of strings), its length, and for each string flags, length and bytes.
    """
    while database:
        stream = zlib.decompressobj()
        data = stream.decompress(database[4:])
        database = stream.unused_data
        offset = 18 + struct.unpack_from(">i", data, 14)[0]
        kind, count = struct.unpack_from(">ii", data, offset)
        if data[:2] != b"X\n" or kind & 0xFF != 16:
            continue
        offset += 8
        lines = []
        for _ in range(count):
            length = max(0, struct.unpack_from(">i", data, offset + 4)[0])
            lines.append(data[offset + 8 : offset + 8 + length].decode())
            offset += 8 + length
        yield lines


def paragraphs(lines):
    """Text with the lines of a paragraph joined by spaces, paragraphs by an empty line."""
    blocks = re.split(r"\n\s*\n", "\n".join(lines))
    return "\n\n".join(" ".join(block.split()) for block in blocks if block.strip())


def fetch(folder):
    with tempfile.TemporaryDirectory() as download:
        command = ["apt-get", "download", "-qq", PACKAGE]
        if subprocess.run(command, cwd=download, stderr=subprocess.DEVNULL).returncode != 0:
            subprocess.run(["apt-get", "update", "-qq"])  # needs root; without it the lists may be there all the same
            subprocess.run(command, cwd=download, check=True)
        package = next(pathlib.Path(download).glob("*.deb"))
        archive = pathlib.Path(download) / "data.tar"
        with open(archive, "wb") as target:
            subprocess.run(["dpkg-deb", "--fsys-tarfile", package], stdout=target, check=True)
        with tarfile.open(archive) as tar:
            name = next(name for name in tar.getnames() if name.endswith("data/Rdata.rdb"))
            database = tar.extractfile(name).read()
    folder.mkdir(parents=True, exist_ok=True)
    for lines in character_vectors(database):
        title = lines[0].strip().lower().replace(" ", "_")
        (folder / f"{title}.txt").write_text(paragraphs(lines))


def novels():
    """{title: text}, front matter left out."""
    folder = cache_folder()
    if len(list(folder.glob("*.txt"))) != 6:
        fetch(folder)
    return {path.stem: path.read_text()[FRONT_MATTER:] for path in sorted(folder.glob("*.txt"))}


def sentences(text):
    """Pieces that end where sentences do; joined they are the text."""
    return re.findall(r".+?(?:[.!?][\"'”_)]*\s+|\n\n|$)", text, re.DOTALL)
