"""The Kubernetes API, played: enough of it that DAGs, the Python clients and an unmodified kubectl notice nothing.

It is a stage, not the play: one process, objects in memory, made anew and alike at every start. What
it does, it does as the real API does it, and the kubectl agreement (scripts/kubectl_agreement.py)
compares the two.

``resources``, ``store``, ``verbs``, ``selecting``, ``patches`` and ``defaults`` are the API server's
insides; ``api``, ``watching``, ``discovery``, ``tables``, ``views``, ``protobuf`` and ``logs`` (with
``lines``) its face. On ``controllers`` stand ``deployments``, ``jobs``, ``autoscaling`` and
``certificates``; ``kubelet`` with ``processes`` plays the nodes, ``metrics`` what they use. ``seed`` is
the platform that is there at the start, ``faults`` how it goes wrong, ``stage`` all of it as one process.

Why not kmock 0.8, whose KubernetesEmulator keeps objects too: it has no resourceVersions and so no
conflicts, paging or resumable watches, no selectors, no strategic merge or JSON patches, no tables
and no subresources, which is most of what is here; 150 lines of discovery and storage would be saved
at the price of a dependency and its DSL.
"""
