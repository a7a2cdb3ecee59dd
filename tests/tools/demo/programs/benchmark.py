"""A stand-in for tf_cnn_benchmarks.py, the user's own program: no TensorFlow and no GPU, a checksum for each image."""

from __future__ import annotations

import argparse
import json
import sys
import time
import zlib

BATCHES = 30


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--local_parameter_device", default="cpu")
    options = parser.parse_args()
    print(f"Model:       {options.model}")
    print(f"Batch size:  {options.batch_size}")
    print("Step    Img/sec (a stand-in's, on the processor)")
    image = bytes(299 * 299 * 3)
    for step in range(10, BATCHES + 1, 10):
        began = time.perf_counter()
        for _ in range(options.batch_size):
            zlib.crc32(image)
        print(f"{step:<7} images/sec: {options.batch_size / (time.perf_counter() - began):.1f}")
    print(f"arguments: {json.dumps(sys.argv[1:])}")


main()
