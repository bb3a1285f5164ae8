"""Random networks of everything that is known: the same function, an outcome for each, nothing left over."""

from __future__ import annotations

from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fold_onnx.graphs import assert_faithful
from tests.fold_onnx.random_joins import Joiner


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_random_networks(data: st.DataObject) -> None:
    grower = Joiner(lambda options: data.draw(st.sampled_from(options)), seed=data.draw(st.integers(0, 99)))
    for _ in range(data.draw(st.integers(2, 9))):
        grower.grow()
    outputs = grower.outputs()
    if not outputs:
        return
    after, report = assert_faithful(grower.net, *outputs)
    given_names = Counter(n.name for n in grower.net.nodes if n.op_type == "BatchNormalization")
    outcomes = Counter(entry.site.batchnorm for entry in report.folded)
    outcomes += Counter(entry.site.batchnorm for entry in report.kept)
    assert all(outcomes[name] == 1 for name in given_names)
    assert all(entry.reason for entry in report.kept)
    left = {node.name for node in after.graph.node if node.op_type == "BatchNormalization"}
    assert left <= {entry.site.batchnorm for entry in report.kept}
