"""Unpacks chosen files of a Python wheel, which is a zip file, without Python's package tools.

    unpack_wheel.py WHEEL DIRECTORY --only PATTERN... [--except PATTERN...]

Patterns are shell patterns over whole paths. Progress goes to file descriptor 3 as percentages, one per line.
"""

import argparse
import fnmatch
import os
import zipfile


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("wheel")
    parser.add_argument("directory")
    parser.add_argument("--only", nargs="+", required=True)
    parser.add_argument("--except", nargs="+", default=[], dest="excluded")
    options = parser.parse_args()

    def wanted(path):
        def matches(patterns):
            return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)

        return matches(options.only) and not matches(options.excluded)

    with zipfile.ZipFile(options.wheel) as wheel, os.fdopen(3, "w") as progress:
        entries = [entry for entry in wheel.infolist() if wanted(entry.filename) and not entry.is_dir()]
        if not entries:
            raise SystemExit(f"{options.wheel} has none of: {' '.join(options.only)}")
        total = sum(entry.file_size for entry in entries) or 1
        done = shown = 0
        for entry in entries:
            path = os.path.join(options.directory, *entry.filename.split("/"))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with wheel.open(entry) as source, open(path, "wb") as target:
                while chunk := source.read(1 << 22):
                    target.write(chunk)
                    done += len(chunk)
                    if 100 * done // total > shown:
                        shown = 100 * done // total
                        print(shown, file=progress, flush=True)


if __name__ == "__main__":
    main()
