"""Prints each test of a CTest JUnit report that failed, with the last lines of what it printed: failed_tests.py REPORT"""

import sys
import xml.etree.ElementTree

LINES = 80  # of each test: a sanitizer's report and the assertion that failed fit

for case in xml.etree.ElementTree.parse(sys.argv[1]).iter("testcase"):
    skipped = case.find("skipped")
    if case.get("status") in ("run", "disabled"):
        continue
    if skipped is not None and skipped.get("message", "").startswith("SKIP_"):
        continue
    print(f"{sys.argv[1]}: {case.get('name')}")
    output = case.findtext("system-out") or ""
    print("".join(f"    {line}\n" for line in output.splitlines()[-LINES:]), end="")
