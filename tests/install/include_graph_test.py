"""include_graph.py must see each kind of violation, planted in a small tree of its own."""

import pathlib
import tempfile
import unittest

from include_graph import Graph

SOUND = {
    "include/tiercel/types.h": "#include <cstdint>\n// no fmt::format here\n",
    "src/base/logging.h": '#include <spdlog/spdlog.h>\n#include "tiercel/types.h"\n',
    "src/kv/pool.h": '#include <sys/mman.h>\n#include "base/logging.h"\n',
    "src/kv/pool.cc": '#include "kv/pool.h"\n',
    "src/engine/step.cc": '#include "kv/pool.h"\n#include "kernels/rope.h"\n',
    "kernels/rope.h": "#include <cstddef>\n",
    "kernels/rope.cc": '#include "kernels/rope.h"\n#define HWY_TARGET_INCLUDE "kernels/rope.cc"\n#include <hwy/foreach_target.h>\n',
}


class IncludeGraphTest(unittest.TestCase):
    def problems(self, changes):
        with tempfile.TemporaryDirectory() as directory:
            for name, text in {**SOUND, **changes}.items():
                path = pathlib.Path(directory, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            return Graph(directory).check()

    def assert_problem(self, changes, *words):
        problems = self.problems(changes)
        self.assertEqual(len(problems), 1, problems)
        for word in words:
            self.assertIn(word, problems[0])

    def test_sound_tree(self):
        self.assertEqual(self.problems({}), [])

    def test_include_that_points_up(self):
        self.assert_problem({"src/kv/pool.cc": '#include "engine/step.cc"\n'}, "src/kv/pool.cc", "src/kv may not depend on src/engine")

    def test_kv_on_kernels(self):
        self.assert_problem({"src/kv/pool.cc": '#include "../../kernels/rope.h"\n'}, "src/kv may not depend on kernels")

    def test_public_header_on_internal_one(self):
        self.assert_problem({"include/tiercel/a.h": '#include "kv/pool.h"\n'}, "include/tiercel may not depend on src/kv")

    def test_library_outside_its_layer(self):
        self.assert_problem({"src/kv/pool.cc": "#include <ATen/ATen.h>\n"}, "<ATen/ATen.h>", "src/kv may not use it")
        self.assert_problem({"include/tiercel/a.h": "#include <fmt/core.h>\n"}, "include/tiercel may not use it")
        self.assert_problem({"include/tiercel/a.h": "#include <unistd.h>\n"}, "include/tiercel may not use it")

    def test_public_header_that_names_a_foreign_type(self):
        self.assert_problem({"include/tiercel/a.h": "namespace at { class Tensor; }\nvoid f(at::Tensor&);\n"}, "a.h:2 names at::")

    def test_folder_in_no_layer(self):
        self.assert_problem({"src/new/a.h": ""}, "src/new is in no layer")

    def test_cycle(self):
        self.assert_problem(
            {"src/kv/a.h": '#include "kv/b.h"\n', "src/kv/b.h": '#include "kv/a.h"\n'}, "cycle: src/kv/a.h -> src/kv/b.h -> src/kv/a.h"
        )


if __name__ == "__main__":
    unittest.main()
