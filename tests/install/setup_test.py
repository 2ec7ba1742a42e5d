"""The set-up scripts: what they report, and what they leave behind."""

import pathlib
import subprocess
import sys
import tempfile
import unittest
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]


def bash(script, directory):
    return subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=directory, capture_output=True, text=True, check=False)


class StepTest(unittest.TestCase):
    def run_script(self, script):
        with tempfile.TemporaryDirectory() as directory:
            return bash(f". {ROOT}/setup/progress.sh\n{script}", directory)

    def test_reports_progress_and_keeps_output_in_the_log(self):
        result = self.run_script("work() { echo 30 >&3; echo detail; echo 80 >&3; }\nstep Title work\ncat build/log/Title.log")
        self.assertEqual(result.returncode, 0, result.stderr)
        lines = result.stdout.splitlines()
        self.assertEqual(lines[:3], ["Title ...", "Title: 30 %", "Title: 80 %"])
        self.assertRegex(lines[3], r"^Title: done after \d+ s$")
        self.assertEqual(lines[4:], ["detail"])

    def test_failure_ends_the_script_with_its_status_and_shows_the_log(self):
        result = self.run_script("work() { echo the reason; return 7; }\nstep Title work\necho never")
        self.assertEqual(result.returncode, 7)
        self.assertIn("Title: failed", result.stdout)
        self.assertIn("the reason", result.stderr)
        self.assertNotIn("never", result.stdout)

    def test_failure_inside_a_reporting_loop_is_seen(self):
        result = self.run_script("mkdir d\nwork() { report_growth d 100 false; }\nstep Title work || echo status $?")
        self.assertIn("status 1", result.stdout)


class DownloadTest(unittest.TestCase):
    def test_what_an_interrupted_run_left_is_removed_and_the_rest_kept(self):
        with tempfile.TemporaryDirectory() as directory:
            cache = pathlib.Path(directory, "cache")
            (cache / "incoming/libtorch").mkdir(parents=True)
            (cache / "models").mkdir()
            script = f"""cd {ROOT}
TIERCEL_CACHE_DIR={cache}
. setup/install.sh
trap discard_download EXIT
begin_download
[[ -z $(ls "$incoming") ]]
touch "$incoming/half"
exit 3"""
            result = bash(script, directory)
            self.assertEqual(result.returncode, 3, result.stderr)
            self.assertEqual(sorted(path.name for path in cache.iterdir()), [".lock", "models"])


class UnpackTest(unittest.TestCase):
    def unpack(self, directory, *patterns):
        wheel = pathlib.Path(directory, "a.whl")
        with zipfile.ZipFile(wheel, "w") as archive:
            for name in ("torch/lib/a.so", "torch/lib/python.so", "torch/include/x/b.h", "torch/other.py"):
                archive.writestr(name, name * 100)
        command = [sys.executable, str(ROOT / "setup/unpack_wheel.py"), str(wheel), f"{directory}/out", *patterns]
        return subprocess.run(["sh", "-c", 'exec "$@" 3>&1', "sh", *command], capture_output=True, text=True, check=False)

    def test_takes_what_is_wanted(self):
        with tempfile.TemporaryDirectory() as directory:
            result = self.unpack(directory, "--only", "torch/lib/*", "torch/include/*", "--except", "*/python.so")
            self.assertEqual(result.returncode, 0, result.stderr)
            out = pathlib.Path(directory, "out")
            files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
            self.assertEqual(files, ["torch/include/x/b.h", "torch/lib/a.so"])
            self.assertEqual((out / "torch/lib/a.so").read_text(), "torch/lib/a.so" * 100)
            self.assertEqual(result.stdout.splitlines()[-1], "100")

    def test_a_wheel_without_what_is_wanted_is_an_error(self):
        with tempfile.TemporaryDirectory() as directory:
            result = self.unpack(directory, "--only", "nvidia/*")
            self.assertNotEqual(result.returncode, 0)
            self.assertIn("nvidia/*", result.stderr)


class CommandTest(unittest.TestCase):
    def test_help_and_wrong_arguments(self):
        for command in ("quickstart", "check"):
            result = subprocess.run([ROOT / command, "--help"], capture_output=True, text=True, check=False)
            self.assertEqual(result.returncode, 0)
            self.assertIn(f"Usage: ./{command}", result.stdout)
            result = subprocess.run([ROOT / command, "--nonsense"], capture_output=True, text=True, check=False)
            self.assertEqual(result.returncode, 2)


if __name__ == "__main__":
    unittest.main()
