"""A panel client without rendering: the network's share of a browser that runs on another computer."""

from __future__ import annotations

import asyncio
import json
from multiprocessing.sharedctypes import Synchronized

import aiohttp


def look(address: str, frames: Synchronized[int]) -> None:
    """Acknowledge every frame at once, and read every state, until the panel ends. frames: counts the frames."""
    asyncio.run(_look(address, frames))


async def _look(address: str, frames: Synchronized[int]) -> None:
    async with aiohttp.ClientSession(address) as session:
        await asyncio.gather(_pictures(session, frames), _states(session))


async def _pictures(session: aiohttp.ClientSession, frames: Synchronized[int]) -> None:
    async with session.ws_connect("/pictures") as socket:
        await socket.send_str("front")
        async for _ in socket:
            frames.value += 1
            await socket.send_str("shown")


async def _states(session: aiohttp.ClientSession) -> None:
    async with session.ws_connect("/control") as socket:
        async for message in socket:
            json.loads(message.data)
