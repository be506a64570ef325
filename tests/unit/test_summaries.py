"""How results show themselves: one line without the text of a memory, and a table in notebooks."""

from __future__ import annotations

import pytest

from memorizz_async import (
    BatchResults,
    ContextReport,
    ContextWindow,
    Explanation,
    FoundBy,
    HitExplanation,
    Hits,
    KeptMemory,
    LeftOut,
    MemoryType,
    MemoryUnit,
    MongoDBConfig,
    RecallResults,
    ReembedReport,
    Timings,
)
from memorizz_async.context import ContextWindowManager
from memorizz_async.memory_provider.mongodb.indexes import IndexReport
from memorizz_async.memory_provider.mongodb.reembedding.report import TypeReport
from memorizz_async.memory_provider.mongodb.search_index import IndexProgress

TEXT = "the marker text of a memory <b>"

HITS = Hits([{"_id": "1", "content": TEXT, "score": 0.9}], strategy="scan")
BATCH = BatchResults({"SUMMARIES": HITS}, types={"SUMMARIES": MemoryType.SUMMARIES})
REPORT = ContextReport(
    100, 40, 10, "the model's tokenizer",
    kept=(KeptMemory("SUMMARIES", "1", 0.9, 30),),
    left_out=(LeftOut("SUMMARIES", "2", "duplicate", "of 1", "1"),),
)  # fmt: skip
TYPE_REPORT = TypeReport("SUMMARIES", "summaries", "m", rows=3, seconds=1.0)
SHOWN = {
    "hits": HITS,
    "batch": BATCH,
    "recall": RecallResults(BATCH, total_ms=3.0),
    "timings": Timings(1.0, {"SUMMARIES": 2.0}, 3.0),
    "explanation": Explanation(
        "scan", "no index", None, True, {"memory_id": "a"}, {"role": {"$eq": TEXT}},
        [HitExplanation("1", 1, 0.9, (FoundBy("scan", 1, 0.9),))], {"scan": 1.5},
    ),
    "indexes": IndexReport({"facts": ["tenant"]}, {}, {"facts": "created"}),
    "progress": IndexProgress("facts", "vector_index", "READY", True, 1.0),
    "context report": REPORT,
    "context": ContextWindow("header", TEXT, REPORT),
    "type report": TYPE_REPORT,
    "reembed report": ReembedReport("m", 3, {"SUMMARIES": TYPE_REPORT}, 1.0),
    "unit": MemoryUnit("conversational", MongoDBConfig("memory://"), memory_id="ada"),
    "manager": ContextWindowManager(MongoDBConfig("memory://"), memory_id="ada"),
}  # fmt: skip


@pytest.mark.parametrize("name", SHOWN)
def test_a_repr_is_one_line_without_the_text_of_a_memory(name: str) -> None:
    """It names its class, and is fit for a log."""
    line = repr(SHOWN[name])
    assert "\n" not in line
    assert type(SHOWN[name]).__name__ in line
    assert TEXT not in line
    assert len(line) < 400


@pytest.mark.parametrize("name", SHOWN)
def test_a_notebook_shows_a_table(name: str) -> None:
    """With everything escaped."""
    html = SHOWN[name]._repr_html_()
    assert "<table>" in html
    assert TEXT not in html


def test_printed_results_show_their_hits() -> None:
    """As the dicts and lists that they are."""
    assert str(HITS) == str([dict(HITS[0])])
    assert str(BATCH) == str({"SUMMARIES": [dict(HITS[0])]})


def test_the_lines_say_what_matters() -> None:
    """Counts, strategy, times."""
    assert repr(HITS) == "<Hits 1, mode vector, strategy scan>"
    assert repr(BATCH) == "<BatchResults SUMMARIES: 1>"
    assert "total_ms=3" in repr(SHOWN["timings"])
    assert "kept=1" in repr(REPORT)
    assert "application_mode=conversational" in repr(SHOWN["unit"])
    assert "memory_id=ada" in repr(SHOWN["unit"])
