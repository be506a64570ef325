"""A small conversation in LoCoMo's shape."""

from __future__ import annotations

from typing import Any

TALK: dict[str, Any] = {
    "sample_id": "talk",
    "conversation": {
        "speaker_a": "Ada",
        "speaker_b": "Bo",
        "session_1_date_time": "1:56 pm on 8 May, 2023",
        "session_1": [
            {"speaker": "Ada", "dia_id": "D1:1", "text": "I moved to Lyon."},
            {
                "speaker": "Bo",
                "dia_id": "D1:2",
                "text": "Look at this!",
                "blip_caption": "a photo of a red kite",
                "img_url": ["ignored"],
            },
        ],
        "session_2_date_time": "12:05 am on 9 May, 2023",  # a date without turns, as in LoCoMo
    },
    "observation": {
        "session_1_observation": {
            "Ada": [["Ada lives in Lyon.", "D1:1"]],
            "Bo": [["Bo flies kites.", ["D1:1", "D1:2"]]],
        }
    },
    "session_summary": {"session_1_summary": "Ada moved and Bo has a kite."},
    "qa": [
        {"question": "Where?", "answer": "Lyon", "evidence": ["D1:1"], "category": 4},
        {"question": "When?", "answer": 2023, "evidence": ["D1:1", "D1:2"], "category": 2},
        {"question": "Unknown?", "answer": "x", "evidence": ["D1:1; D9:9"], "category": 1},
        {"question": "None?", "answer": "x", "evidence": [], "category": 3},
        {"question": "Trap?", "adversarial_answer": "x", "evidence": ["D1:1"], "category": 5},
    ],
}
