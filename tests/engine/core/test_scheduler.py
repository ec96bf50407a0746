"""The scheduler's rules, one a test, on the toy model, which checks every KV slot that a step reads."""

import time

import pytest

from octavo_api.settings import BLOCK_SIZE


def lengths(step):
    return [share.length for share in step.scheduled]


def test_a_prompt_is_computed_in_chunks_of_the_budget(make_engine, make_request, continuation):
    engine = make_engine(budget=32, context=128)
    engine.add(make_request(70, max_tokens=2))
    steps = [engine.step() for _ in range(4)]
    assert [lengths(step) for step in steps] == [[32], [32], [6], [1]]
    assert [step.scheduled[0].samples for step in steps] == [False, False, True, True]
    assert engine.answer("r0") == continuation(list(range(70)), 2)


def test_decodes_go_before_prefill_chunks(make_engine, make_request):
    engine = make_engine(budget=16)
    engine.add(make_request(4, max_tokens=9))
    engine.step()
    engine.add(make_request(60, max_tokens=1, priority=-1), make_request(4, max_tokens=9))
    assert sorted(lengths(engine.step())) == [1, 15]
    assert sorted(lengths(engine.step())) == [1, 15]


def test_lower_priority_then_earlier_arrival_runs_first(make_engine, make_request):
    engine = make_engine(seqs=1)
    engine.add(make_request(4, priority=1), make_request(4, priority=0), make_request(4, priority=0))
    order = []
    while engine.scheduler.has_work:
        order += [new.request_id for new in engine.step().new]
    assert order == ["r1", "r2", "r0"]


def test_a_row_is_kept_while_the_request_runs_and_freed_with_the_next_step(make_engine, make_request):
    engine = make_engine(seqs=2)
    engine.add(make_request(4, max_tokens=1), make_request(4, max_tokens=3))
    first, second = engine.step(), engine.step()
    assert {new.row for new in first.new} == {0, 1}
    assert second.freed == [0]
    assert [share.row for share in second.scheduled] == [1]


@pytest.mark.parametrize(
    ("sampling", "has_eos", "ended_by", "length"),
    [
        ({"max_tokens": 5}, False, "length", 5),
        ({"max_tokens": None}, False, "length", 118),
        ({"max_tokens": None}, True, "stop", 3),
        ({"max_tokens": None, "ignore_eos": True}, True, "length", 118),
        ({"max_tokens": 8, "min_tokens": 4}, True, "length", 8),
        ({"max_tokens": None, "stop_token_ids": "third"}, False, "stop token", 3),
        ({"max_tokens": 3}, True, "stop", 3),
    ],
)
def test_what_ends_an_answer(make_engine, make_request, continuation, sampling, has_eos, ended_by, length):
    prompt = list(range(10))
    third = continuation(prompt, 3)[2]
    assert continuation(prompt, 8).count(third) == 1
    named = {key: (third,) if value == "third" else value for key, value in sampling.items()}
    engine = make_engine(context=128)
    engine.add(make_request(prompt, eos=(third,) if has_eos else (), **named))
    engine.finish()
    last = engine.last("r0")
    assert (last.finish_reason, last.stop_reason) == ("stop", third) if ended_by == "stop token" else (ended_by, None)
    assert engine.answer("r0") == continuation(prompt, length)


@pytest.mark.parametrize(("prompt", "words"), [([], "empty"), (128, "128 tokens and the context 128"), ([5, 97], "0 … 96"), ([-1], "0 … 96")])
def test_what_can_never_run_is_answered(make_engine, make_request, prompt, words):
    engine = make_engine(context=128)
    engine.add(make_request(prompt))
    assert engine.last("r0").finish_reason == "error"
    assert words in engine.last("r0").error
    assert not engine.scheduler.has_work


def test_an_open_id_is_refused(make_engine, make_request):
    engine = make_engine()
    request = make_request(4)
    engine.add(request, request)
    assert "open already" in engine.last("r0").error


def test_the_longest_sequence_must_fit(make_engine):
    with pytest.raises(ValueError, match="max_model_len=128"):
        make_engine(blocks=8, context=128)


def test_abort_frees_rows_and_blocks_at_once(make_engine, make_request):
    engine = make_engine()
    engine.add(make_request(40), make_request(40))
    engine.step()
    engine.collect(engine.scheduler.abort(["r0", "r1", "unknown"]))
    assert engine.scheduler.stats().kv_blocks_used == 0
    assert not engine.scheduler.has_work
    assert engine.last("r0").finish_reason == engine.last("r1").finish_reason == "abort"


def test_the_last_in_order_is_preempted_and_answers_the_same(make_engine, make_request, continuation):
    engine = make_engine(blocks=9, budget=64, context=96)
    engine.add(make_request(60, max_tokens=30), make_request(50, max_tokens=30), make_request(10, max_tokens=30))
    engine.finish()
    assert engine.scheduler.stats().preemptions > 0
    for request_id, length in (("r0", 60), ("r1", 50), ("r2", 10)):
        assert engine.answer(request_id) == continuation(list(range(length)), 30)


def test_a_more_urgent_request_keeps_its_blocks(make_engine, make_request):
    engine = make_engine(blocks=9, context=96, prefix_caching=False)
    engine.add(make_request(62, max_tokens=30, priority=1), make_request(60, max_tokens=30, priority=0))
    engine.step()
    while not engine.scheduler.stats().preemptions:
        engine.step()
    assert [request.id for request in engine.scheduler.running] == ["r1"]


def test_equal_prompts_of_one_step_share_their_blocks(make_engine, make_request):
    engine = make_engine(budget=128)
    engine.add(make_request(40, max_tokens=4), make_request(40, max_tokens=4))
    assert lengths(engine.step()) == [40, 8]
    assert engine.last("r1").num_cached_tokens == 32
    engine.finish()
    assert engine.answer("r0") == engine.answer("r1")


def test_a_hit_leaves_a_token_to_compute(make_engine, make_request, continuation):
    engine = make_engine()
    engine.add(make_request(48, max_tokens=2))
    engine.finish()
    engine.add(make_request(48, max_tokens=2))
    assert lengths(engine.step()) == [16]
    engine.finish()
    assert engine.answer("r1") == continuation(list(range(48)), 2)
    assert engine.scheduler.stats().cached_prompt_tokens == 32


def test_an_answer_is_a_prefix_too(make_engine, make_request):
    engine = make_engine()
    engine.add(make_request(30, max_tokens=40))
    engine.finish()
    engine.add(make_request(list(range(30)) + engine.answer("r0"), max_tokens=1))
    assert lengths(engine.step()) == [6]


@pytest.mark.parametrize("change", [{"prefix_caching": False}, {"salt": "another tenant"}])
def test_what_shares_no_prefix(make_engine, make_request, change):
    salt = change.pop("salt", "")
    engine = make_engine(**change)
    engine.add(make_request(48, max_tokens=1))
    engine.finish()
    engine.add(make_request(48, max_tokens=1, salt=salt))
    assert lengths(engine.step()) == [48]


def test_a_window_group_holds_no_more_than_its_window(make_engine, make_request, window, full):
    engine = make_engine((full, window), budget=16)
    engine.add(make_request(100, max_tokens=20))
    while engine.scheduler.has_work:
        engine.step()
        for request in engine.scheduler.running:
            assert len(request.tables[0].blocks) == -(-request.num_computed // BLOCK_SIZE)
            assert sum(block != 0 for block in request.tables[1].blocks) <= 4
    assert engine.scheduler.stats().kv_blocks_used == 0


def test_a_hit_behind_a_window_begins_with_null_blocks(make_engine, make_request, window, full):
    engine = make_engine((full, window))
    engine.add(make_request(100, max_tokens=1))
    engine.finish()
    engine.add(make_request(100, max_tokens=1))
    (share,) = engine.step().scheduled
    assert share.start == 96
    assert share.new_blocks[1][:4] == [0, 0, 0, 0]
    assert all(share.new_blocks[1][4:])
    assert all(share.new_blocks[0])


def test_a_fork_shares_blocks_and_copies_what_it_writes_to(make_engine, make_request, continuation):
    engine = make_engine()
    engine.add(make_request(40, max_tokens=20))
    engine.step()
    (parent,) = engine.scheduler.running
    used = engine.scheduler.stats().kv_blocks_used
    assert engine.scheduler.fork("r0", make_request([*parent.tokens, 5], max_tokens=20)) is None
    assert engine.scheduler.stats().kv_blocks_used == used
    step = engine.step()
    (copy,) = step.copies
    assert parent.tables[0].blocks[2] == copy.source
    assert engine.scheduler.running[1].tables[0].blocks == [*parent.tables[0].blocks[:2], copy.target]
    engine.finish()
    assert engine.answer("r0") == continuation(list(range(40)), 20)
    assert engine.answer("r1") == continuation([*range(40), engine.answer("r0")[0], 5], 20)


def test_a_resumed_request_goes_on_where_another_replica_stopped(make_engine, make_request, continuation):
    engine = make_engine()
    request = make_request(20, max_tokens=10)
    request.output_token_ids = continuation(list(range(20)), 4)
    engine.add(request)
    engine.finish()
    assert engine.answer("r0") == continuation(list(range(20)), 10)[4:]


def test_steps_may_be_planned_ahead(make_engine, make_request, continuation):
    engine = make_engine(budget=32)
    engine.add(make_request(40, max_tokens=6), make_request(20, max_tokens=9))
    ahead = engine.scheduler.schedule()
    while ahead.scheduled:
        step, ahead = ahead, engine.scheduler.schedule()
        engine.collect(engine.scheduler.update(step, engine.runner.execute(step)))
    assert engine.answer("r0") == continuation(list(range(40)), 6)
    assert engine.answer("r1") == continuation(list(range(20)), 9)


def test_statistics_count_tokens_blocks_and_waste(make_engine, make_request):
    engine = make_engine(blocks=33)
    engine.add(make_request(20, max_tokens=3))
    engine.step()
    stats = engine.scheduler.stats()
    assert (stats.steps, stats.running, stats.kv_blocks, stats.kv_blocks_used, stats.kv_slots_wasted) == (1, 1, 32, 2, 12)
    assert (stats.prompt_tokens, stats.generation_tokens) == (20, 1)


def test_a_step_of_64_decodes_takes_under_a_millisecond(make_engine, make_request, full, window):
    engine = make_engine((full, window), blocks=2000, seqs=64, budget=2048, context=200)
    engine.add(*(make_request([index, 1, 2, 3] * 4, max_tokens=150) for index in range(64)))
    engine.step()
    times = []
    for _ in range(100):
        begun = time.perf_counter()
        step = engine.scheduler.schedule()
        planned = time.perf_counter()
        output = engine.runner.execute(step)
        updating = time.perf_counter()
        engine.scheduler.update(step, output)
        engine.scheduler.stats()
        times.append(planned - begun + time.perf_counter() - updating)
    assert len(step.scheduled) == 64
    assert min(times) < 1e-3
