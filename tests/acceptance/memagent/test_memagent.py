"""An agent talks over two days; two users talk to theirs.

The model knows nothing: it answers from the prompt that it is shown, so that a right answer is a
memory that reached it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from atlas_standin import AtlasStandin
from memorizz import MemAgent, MemoryType
from support import agents
from support.agents import NewAgent, close, settle
from support.openai_server import UNKNOWN, ScriptedOpenAI, quote

DAY_ONE = datetime(2026, 3, 1, 9, tzinfo=UTC)
DAY_TWO = datetime(2026, 3, 2, 18, tzinfo=UTC)
SMALL_TALK = ["The weather is lovely.", "What is 7 times 8?", "Recommend a novel.", "Thank you."]


def test_a_fact_of_the_first_day_is_known_on_the_second_and_in_a_new_process(
    memory: Any,
    atlas: AtlasStandin,
    server: ScriptedOpenAI,
    new_agent: NewAgent,
    clock: Callable[[datetime], None],
) -> None:
    """Found by its meaning, in another conversation, with the date on which it was said."""
    clock(DAY_ONE)
    first = new_agent(memory, name="steward", memory_ids=["house"])
    first.save()
    for said in ("By the way, I am allergic to hazelnuts.", *SMALL_TALK):
        first.run(said, user_id="ada", thread_id="monday")
    close(first)
    assert [asked.question for asked in server.chats][1:] == SMALL_TALK
    settle(atlas)

    clock(DAY_TWO)
    server.script = quote(r"allergic to (\w+)")
    second = MemAgent.load(first.agent_id, memory_provider=memory)
    answer = second.run("Which nuts must I avoid?", user_id="ada", thread_id="tuesday")
    assert answer == "allergic to hazelnuts"
    shown = server.chats[-1]
    assert shown.question == "Which nuts must I avoid?"
    assert "episodic 2026-03-01" in shown.remembered
    # Another conversation: its turns are no history here, so the fact came by search.
    assert [message["role"] for message in shown.messages] == ["system", "user"]
    close(second)
    settle(atlas)

    given = {name: getattr(memory.config, name) for name in ("uri", "db_name", "search_strategy")}
    question = "Is there a nut that I cannot eat?"
    printed = subprocess.run(
        [sys.executable, agents.__file__, json.dumps(given), first.agent_id, "ada", question],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=120,
    ).stdout
    assert printed.strip() == "allergic to hazelnuts"
    assert server.chats[-1].question == question


SECRETS = {"ada": "My safe opens with 4711.", "ben": "My safe opens with 0815."}
SAFE = r"safe opens with (\d+)"


@pytest.mark.parametrize("agents_share_the_memory", [True, False])
def test_two_users_never_see_each_others_rows(
    memory: Any,
    atlas: AtlasStandin,
    server: ScriptedOpenAI,
    new_agent: NewAgent,
    agents_share_the_memory: bool,
) -> None:
    """Neither in any prompt nor in any row that is read, also where they talk at the same time."""
    memory_of = {user: "house" if agents_share_the_memory else f"of-{user}" for user in SECRETS}
    stewards = {
        user: new_agent(memory, name=f"steward-of-{user}", memory_ids=[memory_of[user]])
        for user in SECRETS
    }

    def talk(user: str, *said: str) -> list[str]:
        return [stewards[user].run(line, user_id=user, thread_id=f"t-{user}") for line in said]

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda user: talk(user, SECRETS[user], *SMALL_TALK), SECRETS))
    for steward in stewards.values():
        steward.wait_for_memory_upkeep()
        close(steward)
    settle(atlas)

    stewards = {
        user: MemAgent.load(steward.agent_id, memory_provider=memory)
        for user, steward in stewards.items()
    }
    server.script = quote(SAFE)
    server.asked.clear()
    with ThreadPoolExecutor(2) as pool:
        answers = list(
            pool.map(
                lambda user: stewards[user].run(
                    "What does my safe open with?", user_id=user, thread_id=f"new-{user}"
                ),
                SECRETS,
            )
        )
    assert answers == ["safe opens with 4711", "safe opens with 0815"]
    for asked in server.asked:
        assert ("4711" in asked.shown) != ("0815" in asked.shown)
    assert stewards["ada"].run("The number?", user_id="eve", thread_id="e") == UNKNOWN
    for steward in stewards.values():
        close(steward)
    settle(atlas)

    for user, other in (("ada", "ben"), ("ben", "ada")):
        kind, secret = MemoryType.CONVERSATION_MEMORY, SECRETS[other]
        read = [
            *memory.retrieve_by_query(
                secret, memory_type=kind, memory_id=memory_of[user], limit=50, user_id=user
            ),
            *memory.retrieve_conversation_history_ordered_by_timestamp(
                memory_of[user], user_id=user
            ),
            *memory.list_all(kind, user_id=user),
        ]
        assert len(read) > 2 * len(SMALL_TALK)
        assert {row["user_id"] for row in read} == {user}
        assert not [row for row in read if secret in str(row["content"])]
