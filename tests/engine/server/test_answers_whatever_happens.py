"""Every accepted request gets an answer: also when our own code breaks, before the response and in the middle of it."""

import asyncio
import logging

import httpx
import pytest
from starlette.responses import StreamingResponse

from octavo.outputs import CompletionOutput, RequestOutput
from octavo.server.api import api_app, bare_app
from octavo.server.frame import Frame
from octavo.server.generation import merged
from octavo.server.hang_up import unless_left
from octavo.server.keys import Keys


class BrokenService:
    """A service that fails in the middle of its work."""

    left = 0

    def check_ready(self) -> None:
        raise ZeroDivisionError("a bug")

    def leave(self, record) -> None:
        self.left += 1


async def test_a_bug_is_a_500_in_openais_shape_and_a_traceback_in_the_log(caplog):
    service = BrokenService()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api_app(service, Keys(()))), base_url="http://replica") as client:
        response = await client.get("/v1/models", headers={"x-request-id": "r-1"})
    assert response.status_code == 500
    assert response.json()["error"] == {
        "message": "internal error; the server's log says more under this request_id",
        "type": "server_error",
        "param": None,
        "code": "internal_error",
        "request_id": "r-1",
    }
    assert service.left == 1
    assert [record.exc_info[0] for record in caplog.records if record.levelno == logging.ERROR] == [ZeroDivisionError]


async def test_a_bug_in_mid_response_breaks_the_connection_off():
    """What was cut must not look whole, so the server has to hear of it."""

    async def pieces():
        yield b"begun"
        raise ZeroDivisionError("a bug")

    app = bare_app()
    app.add_api_route("/", lambda: StreamingResponse(pieces()), response_model=None)
    sent = []

    async def send(message) -> None:
        sent.append(message)

    async def receive():
        await asyncio.sleep(3600)

    scope = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/", "query_string": b"", "headers": [], "asgi": {"spec_version": "2.3"}}
    with pytest.raises(Exception) as failed:  # noqa: PT011  a group, or the error itself, as Starlette likes
        await Frame(app, BrokenService(), Keys(()))(scope, receive, send)
    assert "a bug" in repr(failed.value)
    assert all(message.get("more_body", True) for message in sent)


def output(text: str, finished: bool = False) -> RequestOutput:
    return RequestOutput(request_id="r", prompt=None, prompt_token_ids=[], outputs=[CompletionOutput(text=text)], finished=finished)


async def test_choices_are_merged_as_they_come_and_closed_together():
    closed = []

    async def choice(name: str, pause: float, count: int):
        try:
            for number in range(count):
                await asyncio.sleep(pause)
                yield output(f"{name}{number}", finished=number == count - 1)
        finally:
            closed.append(name)

    found = [(index, each.outputs[0].text) async for index, each in merged([choice("a", 0.03, 3), choice("b", 0.002, 4)])]
    assert [text for index, text in found if index == 0] == ["a0", "a1", "a2"]
    assert [text for index, text in found if index == 1] == ["b0", "b1", "b2", "b3"]
    assert found[0][0] == 1
    assert sorted(closed) == ["a", "b"]

    closed.clear()
    stream = merged([choice("a", 0.001, 100), choice("b", 0.001, 100)])
    await anext(stream)
    await stream.aclose()
    assert sorted(closed) == ["a", "b"]


async def test_a_choice_that_breaks_breaks_the_request():
    async def good():
        while True:
            await asyncio.sleep(0.001)
            yield output("x")

    async def bad():
        yield output("y")
        raise ZeroDivisionError("a bug")

    async def read() -> None:
        async for _ in merged([good(), bad()]):
            pass

    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(read(), 5)


@pytest.mark.parametrize("leaves", [True, False])
async def test_work_ends_with_its_client(leaves):
    ended = []
    gone = asyncio.Event()

    async def receive():
        await gone.wait()
        return {"type": "http.disconnect"}

    async def work() -> None:
        try:
            await asyncio.sleep(3600 if leaves else 0.01)
            ended.append("done")
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    if leaves:
        asyncio.get_running_loop().call_later(0.01, gone.set)
    await asyncio.wait_for(unless_left(receive, work()), 5)
    assert ended == ["cancelled" if leaves else "done"]
