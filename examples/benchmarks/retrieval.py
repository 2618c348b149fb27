"""How long it takes to find the nearest of a million embeddings to that of one new image.

    pip install faiss-cpu
    python examples/benchmarks/retrieval.py --images 1000000

Embeddings are random mixtures of `--rank` directions and a little noise, as those of encoders have
few directions, too.
"""

import argparse
import time

import faiss
import numpy as np

QUERIES = 50
PROBES = (32, 128, 512)


def draw(n, width, rank, random):
    """Draw embeddings of length 1, a part at a time."""
    mixing = np.random.default_rng(0).standard_normal((rank, width), np.float32)
    Z = np.empty((n, width), np.float32)
    for start in range(0, n, 50_000):
        part = Z[start : start + 50_000]
        part[:] = random.standard_normal((len(part), rank), np.float32) @ mixing
        part += random.standard_normal(part.shape, np.float32)
        faiss.normalize_L2(part)
    return Z


def timed(search, queries):
    """Return neighbors of each query, searched one by one, and times in milliseconds."""
    found, times = [], []
    for query in queries:
        start = time.perf_counter()
        found.append(search(query[None])[1][0])
        times.append(1000 * (time.perf_counter() - start))
    return np.array(found), times


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rank", type=int, default=50)
    parser.add_argument("--lists", type=int, default=1024)
    args = parser.parse_args()
    random = np.random.default_rng(1)
    Z = draw(args.images, args.width, args.rank, random)
    queries = draw(QUERIES, args.width, args.rank, random)

    start = time.perf_counter()
    # Candidates by 64 directions, in lists; the best of them by the whole embeddings.
    index = faiss.index_factory(
        args.width, f"PCA64,IVF{args.lists},SQfp16,RFlat", faiss.METRIC_INNER_PRODUCT
    )
    index.train(Z[:: max(1, len(Z) // (40 * args.lists))])
    index.add(Z)
    print(f"index of {args.images} x {args.width}: {time.perf_counter() - start:.0f} s to build")

    exact = faiss.IndexFlatIP(args.width)
    exact.add(Z)
    truth, times = timed(lambda query: exact.search(query, 10), queries)
    report("exact", times)
    for probes in PROBES:
        faiss.ParameterSpace().set_index_parameters(index, f"nprobe={probes},k_factor_rf=20")
        found, times = timed(lambda query: index.search(query, 10), queries)
        hits = [len({*a} & {*b}) / 10 for a, b in zip(found, truth, strict=True)]
        report(f"{probes} of {args.lists} lists", times, np.mean(hits))


def report(name, times, recall=1.0):
    low, median, high = np.quantile(times, (0.05, 0.5, 0.95))
    print(
        f"{name}: median {median:.1f} ms (5 to 95 %: {low:.1f} to {high:.1f}), "
        f"{recall:.2f} of the 10 nearest found"
    )


if __name__ == "__main__":
    main()
