"""Client of a remote vLLM server's OpenAI-compatible API; `molmoact-ros serve` starts such a server."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import cv2
import httpx
import numpy as np

from molmoact_ros.engine.remote import CONNECT, BackOff, header_key, refusal
from molmoact_ros.engine.vllm_backend.engine import Request
from molmoact_ros.reasoning.answer import RefusedStep


class ServerStream:
    """Streams answers from a server, one request at a time; a server that fails is left alone for a while (BackOff)."""

    def __init__(self, url: str, name: str, key: str = "") -> None:
        """url: such as http://gpu:8000. name: the model that the server must serve (`served_name`). key: its API key;
        empty: none.

        Raises ValueError for a key that an HTTP header cannot carry.
        """
        self.url, self.name = url.rstrip("/"), name
        # Only connecting has its own timeout: a step has one for the whole answer, and no reads happen between steps.
        self._client = httpx.AsyncClient(
            base_url=self.url, timeout=httpx.Timeout(None, connect=CONNECT), headers=header_key(key)
        )
        self._known = False  # whether this server is known to serve the right model
        self._failures = BackOff()

    async def answer(self, request: Request) -> AsyncIterator[Sequence[int]]:
        """Yield the answer's tokens as they arrive. Raises RefusedStep, in one line, for every failure."""
        self._failures.check()
        try:
            if not self._known:
                await self._check()
            async with self._client.stream("POST", "/v1/chat/completions", json=body(request, self.name)) as response:
                if response.status_code != httpx.codes.OK:
                    raise RefusedStep(_refusal(self.url, response.status_code, await response.aread()))
                async for line in response.aiter_lines():
                    ids = tokens_of(line)
                    if ids:
                        self._failures.succeed()
                        yield ids
        except httpx.HTTPError as error:
            self._fail(f"the vLLM server {self.url} does not answer ({type(error).__name__}); the step is dropped")
        except RefusedStep as refusal:
            self._fail(str(refusal))
        except (ValueError, KeyError, IndexError, TypeError) as error:
            self._fail(f"the vLLM server {self.url} says what is not understood ({error}); is it `molmoact-ros serve`?")

    def _fail(self, reason: str) -> None:
        """Start a back-off and raise RefusedStep. The next request checks the served model again, which may differ."""
        self._known = False
        self._failures.fail(reason)

    async def _check(self) -> None:
        response = await self._client.get("/v1/models", timeout=CONNECT)
        if response.status_code != httpx.codes.OK:
            raise RefusedStep(_refusal(self.url, response.status_code, response.content))
        names = [model["id"] for model in response.json()["data"]]
        if self.name not in names:
            raise RefusedStep(
                f"the vLLM server {self.url} serves {', '.join(names) or 'nothing'}, not this checkpoint ({self.name})"
                "; start it with `molmoact-ros serve --checkpoint` and the same folder"
            )
        self._known = True

    def close(self) -> None:
        """Nothing to release: connections end with the process."""


def body(request: Request, name: str) -> dict[str, Any]:
    """The JSON body of a request."""
    pictures = [{"type": "image_url", "image_url": {"url": data_url(frame)}} for frame in request.frames]
    words = request.text.removeprefix("User: ").removesuffix(" Assistant:")  # the chat template restores them
    return {
        "model": name, "messages": [{"role": "user", "content": [*pictures, {"type": "text", "text": words}]}],
        "temperature": 0.0, "stream": True, "return_token_ids": True, "stop_token_ids": [request.end],
        "structured_outputs": {"grammar": request.grammar},
    }  # fmt: skip


def data_url(frame: np.ndarray) -> str:
    """An image uint8 [H, W, 3] RGB as a PNG in a data URL, which is lossless."""
    _, png = cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return "data:image/png;base64," + base64.b64encode(png.tobytes()).decode()


def tokens_of(line: str) -> list[int]:
    """Parse the token ids in a line of the event stream; empty without ids. Raises RefusedStep for an error event."""
    if not line.startswith("data:") or (data := line.removeprefix("data:").strip()) == "[DONE]":
        return []
    event = json.loads(data)
    if "error" in event:
        raise RefusedStep(f"the vLLM server gave up: {event['error'].get('message', event['error'])}")
    choices = event["choices"]
    return list(choices[0].get("token_ids") or []) if choices else []


def _refusal(url: str, status: int, content: bytes) -> str:
    words = " ".join(content.decode(errors="replace").split())[:200]
    return refusal(f"the vLLM server {url}", status, words, "`molmoact-ros serve --api-key-file`")
