#!/usr/bin/env python3
"""Write a copy of a GGUF in which every tensor is F32.

    to_f32.py IN.gguf OUT.gguf

Metadata is copied as it is (general.file_type becomes 0, all F32); quantized and 16-bit tensors are dequantized by
gguf-py. With F32 weights llama.cpp's own forward pass does not round its activations, so that gradients can be
compared to 1e-4 and not only to the noise of 16-bit products.
"""
import os
import sys

import gguf
import numpy as np

SKIP = {"GGUF.version", "GGUF.tensor_count", "GGUF.kv_count", "general.architecture", "general.file_type"}


def copy_metadata(reader, writer):
    for field in reader.fields.values():
        if field.name in SKIP:
            continue
        kind = field.types[0]
        sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=sub)
    writer.add_file_type(0)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, target = sys.argv[1:]
    reader = gguf.GGUFReader(source)
    arch = reader.fields["general.architecture"].contents()
    temporary = target + ".part"
    writer = gguf.GGUFWriter(temporary, arch)
    copy_metadata(reader, writer)
    for tensor in reader.tensors:
        shape = [int(n) for n in reversed(tensor.shape)]
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), 4 * int(np.prod(shape)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in reader.tensors:
        data = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        shape = [int(n) for n in reversed(tensor.shape)]
        writer.write_tensor_data(np.ascontiguousarray(data, dtype=np.float32).reshape(shape))
    writer.close()
    os.replace(temporary, target)


if __name__ == "__main__":
    main()
