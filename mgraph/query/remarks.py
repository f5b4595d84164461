"""What a reader should know about the edges behind an answer: which were measured less well, and which were left out.

An edge is measured less well in lower than full precision, under another BatchNorm policy than most edges of its space,
or on fewer examples than the split has. An edge with a doubt does not count, and the answer says so.
"""

from __future__ import annotations

from collections.abc import Sequence

from mgraph.metric import LOSS
from mgraph.query.criterion import FULL_PRECISION, ORACLE, Criterion
from mgraph.query.edges import CountingEdges, Link
from mgraph_store import Connection, Evaluation, GraphStore, Node, Reader

_NAMED = 4  # connections, or doubts, that a sentence names


def remarks(store: GraphStore, edges: CountingEdges, links: Sequence[Link]) -> list[str]:
    """Return what there is to say about an answer that uses these links, one sentence each."""
    with store.reading() as reader:
        return [*_grounds(reader, edges.criterion, links), *_left_out(reader, edges), *_on_test(edges.criterion)]


def doubts_of(store: GraphStore, connection: Connection) -> str | None:
    """Return why the newest edge of a connection that has a doubt must not count; None if none has one."""
    sql = "SELECT doubt FROM edges WHERE connection_id = ? AND doubt IS NOT NULL ORDER BY rowid DESC LIMIT 1"
    with store.reading() as reader:
        found = reader.query(sql, [connection.id])[1]
    return str(found[0][0]) if found else None


def _grounds(reader: Reader, criterion: Criterion, links: Sequence[Link]) -> list[str]:
    if not links:
        return []
    usual, whole = _usual_policy(reader, criterion, links), _whole_splits(reader, criterion, links)
    grounds: dict[str, list[str]] = {}
    for link in links:
        said = []
        if link.precision not in FULL_PRECISION:
            said.append(f"measured in {link.precision}, which is less than full precision")
        if usual is not None and link.batchnorm != usual:
            said.append(f"measured under the BatchNorm policy {link.batchnorm}, most edges under {usual}")
        most = whole.get(link.source.id)
        if most is not None and link.examples < most:
            said.append(f"measured on {link.examples} of {most} {link.split} examples")
        for text in said:
            grounds.setdefault(text, []).append(link.connection)
    return [f"{_listed(list(dict.fromkeys(names)))}: {text}." for text, names in grounds.items()]


def _usual_policy(reader: Reader, criterion: Criterion, links: Sequence[Link]) -> str | None:
    """Return the policy of most such edges in the spaces of the links; None if all have the same."""
    of_all = "SELECT count(DISTINCT batchnorm) FROM edges WHERE split = ? AND metric = ?"
    if reader.query(of_all, [criterion.split, criterion.metric])[1][0][0] < 2:  # the usual case, and quick
        return None
    sql = f"""SELECT batchnorm FROM edges WHERE split = ? AND metric = ? AND chosen_on <> '{ORACLE}'
AND connection_id IN (SELECT id FROM connections WHERE space_id IN (
    SELECT space_id FROM connections WHERE id IN (SELECT unnest(?::VARCHAR[]))
)) GROUP BY batchnorm ORDER BY count(DISTINCT connection_id) DESC, min(rowid)"""
    found = reader.query(sql, [criterion.split, criterion.metric, list({link.connection_id for link in links})])[1]
    return str(found[0][0]) if len(found) > 1 else None


def _whole_splits(reader: Reader, criterion: Criterion, links: Sequence[Link]) -> dict[str, int]:
    """Map vertices to the number of examples in their split: modes are measured on all of them when they are made."""
    ids = list({link.source.id for link in links})
    rows = reader.all(Evaluation, node_id=ids, sweep_id=None, split=criterion.split, metric=LOSS.name, subset="all")
    return {row.node_id: row.count for row in rows}


def _left_out(reader: Reader, edges: CountingEdges) -> list[str]:
    if not len(edges.doubted):
        return []
    sql = """SELECT coalesce(c.name, c.id), e.source_id, e.target_id, any_value(e.doubt)
FROM edges e JOIN connections c ON c.id = e.connection_id WHERE e.rowid IN (SELECT unnest(?::BIGINT[]))
GROUP BY 1, 2, 3 ORDER BY min(e.rowid)"""
    rows = reader.query(sql, [edges.doubted.tolist()])[1]
    ids = list({node for row in rows[:_NAMED] for node in row[1:3]})
    names = {n.id: n.name or n.id for n in reader.all(Node, id=ids)}
    said = [f"{c}, from {names[a]} to {names[b]}, does not count: {doubt}" for c, a, b, doubt in rows[:_NAMED]]
    if len(rows) > _NAMED:
        said.append(
            f"{len(rows) - _NAMED} more with a doubt do not count: SELECT * FROM edges WHERE doubt IS NOT NULL."
        )
    return said


def _on_test(criterion: Criterion) -> list[str]:
    if criterion.split != "test":
        return []
    return [
        "Edges were compared on test data, as you asked: test numbers for what this answer chose are no longer "
        "unbiased."
    ]


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
