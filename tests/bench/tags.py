"""An upstream that has every tag, and one image: ``python -m tests.bench.tags PORT``.

A registry with 100,000 tags takes minutes to fill. What the watcher asks of one is answered here from memory: each tag of each
repository names the same manifest, and each repository lists :data:`LISTED` tags.
"""

from __future__ import annotations

import asyncio
import json
import sys

from aiohttp import web

from tests.simulator.images import image

IMAGE = image("bench")
LISTED = [f"t{number}" for number in range(50)]
_HEADERS = {"Content-Type": IMAGE.media_type, "Docker-Content-Digest": str(IMAGE.digest)}


async def _answer(request: web.BaseRequest) -> web.StreamResponse:
    if request.path == "/v2/":
        return web.Response(body=b"{}")
    if "/manifests/" in request.path:
        return web.Response(body=IMAGE.body, headers=_HEADERS)
    if request.path.endswith("/tags/list"):
        return web.Response(text=json.dumps({"tags": LISTED}), content_type="application/json")
    return web.Response(status=404)


async def _serve(port: int) -> None:
    runner = web.ServerRunner(web.Server(_answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
