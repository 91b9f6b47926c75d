"""What one would write first: a FastAPI handler that checks the signature and posts each report alone."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI, Request, Response

KEY, URL, WRITE_KEY = (os.environ[name] for name in ("PLAIN_KEY", "PLAIN_SEGMENT", "PLAIN_WRITE_KEY"))


@asynccontextmanager
async def lifespan(app: FastAPI) -> Any:
    async with httpx.AsyncClient(
        timeout=10, trust_env=False, limits=httpx.Limits(max_connections=None, max_keepalive_connections=None)
    ) as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/main")
async def take(request: Request) -> Response:
    body = await request.body()
    signed = b"v0:" + request.headers["x-cio-timestamp"].encode() + b":" + body
    if not hmac.compare_digest(
        hmac.new(KEY.encode(), signed, hashlib.sha256).hexdigest(), request.headers["x-cio-signature"]
    ):
        return Response(status_code=401)
    report = json.loads(body)
    event = {
        "type": "track",
        "event": "Email Delivered",
        "messageId": report["event_id"],
        "userId": report["data"]["identifiers"]["id"],
        "properties": report["data"],
        "writeKey": WRITE_KEY,
    }
    answer = await request.app.state.client.post(f"{URL}/v1/track", json=event, auth=(WRITE_KEY, ""))
    return Response(status_code=204 if answer.status_code == 200 else 503)
