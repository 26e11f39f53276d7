# SPDX-License-Identifier: Apache-2.0
"""onnx_node_cases.py DIR: write the node tests that the installed onnx package generates itself
(onnx.backend.test.case.node) as DIR/node/<case>/{model.onnx, test_data_set_0/{input,output}_<i>.pb}, the layout of
libonnx-testdata, so that build/tools/conformance runs over both. DIR/VERSION names the package they came from;
nothing is written when it is current."""
import os
import shutil
import sys
import warnings

import onnx
from onnx import numpy_helper

FORM = "1"  # of the files written here: a change makes old folders stale


def io_bytes(value, info):
    """The protobuf of one input or output, by the type the graph declares."""
    kind = info.type.WhichOneof("value")
    if kind == "sequence_type":
        return numpy_helper.from_list(value, info.name).SerializeToString()
    if kind == "optional_type":
        return numpy_helper.from_optional(value, info.name).SerializeToString()
    if kind == "map_type":
        return numpy_helper.from_dict(value, info.name).SerializeToString()
    if isinstance(value, onnx.TensorProto):
        return value.SerializeToString()
    return numpy_helper.from_array(value, info.name).SerializeToString()


def write(path, data):
    with open(path, "wb") as f:
        f.write(data)


def export(case, folder):
    os.makedirs(folder)
    write(os.path.join(folder, "model.onnx"), case.model.SerializeToString())
    for i, (inputs, outputs) in enumerate(case.data_sets):
        data_set = os.path.join(folder, f"test_data_set_{i}")
        os.mkdir(data_set)
        for what, values, infos in (("input", inputs, case.model.graph.input),
                                    ("output", outputs, case.model.graph.output)):
            for k, (value, info) in enumerate(zip(values, infos)):
                write(os.path.join(data_set, f"{what}_{k}.pb"), io_bytes(value, info))


def main():
    root = sys.argv[1]
    stamp = os.path.join(root, "VERSION")
    want = f"onnx {onnx.__version__}, form {FORM}\n"
    if os.path.exists(stamp) and open(stamp, encoding="utf-8").read() == want:
        return
    warnings.filterwarnings("ignore")
    from onnx.backend.test.case.node import collect_testcases  # slow: it computes every case
    shutil.rmtree(root, ignore_errors=True)
    cases = collect_testcases(None)
    for case in cases:
        export(case, os.path.join(root, "node", case.name))
    with open(stamp, "w", encoding="utf-8") as f:
        f.write(want)
    print(f"{len(cases)} node tests of {want.strip()}")


if __name__ == "__main__":
    main()
