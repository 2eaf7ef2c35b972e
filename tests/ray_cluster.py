"""Starts a Ray cluster of two small machines on this computer, for the tests.

    python ray_cluster.py

Prints the address of the head node. The line ``kill`` on the standard input kills the other machine; the end of the
input ends the cluster. It runs in a process of its own, because Ray looks for the address of the computer in a way that
`tests.reliability.network_guard` forbids.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

SMALL = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_log_monitor": False}
ATTEMPTS = 4
"""A busy computer may not start a node within the 30 s that Ray allows."""


def add_node(cluster: Cluster, **options):
    for attempt in range(ATTEMPTS):
        try:
            return cluster.add_node(**SMALL, **options)
        except Exception:
            if attempt == ATTEMPTS - 1:
                raise


def main() -> None:
    # Here, not at the top: pytest imports this file to look for doctests, also where Ray is not installed.
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        add_node(cluster, include_dashboard=False, no_monitor=True)
        other = add_node(cluster)
        print(cluster.address, flush=True)
        for line in sys.stdin:
            if line.strip() == "kill":
                cluster.remove_node(other, allow_graceful=False)
                print("killed", flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
