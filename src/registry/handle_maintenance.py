"""Answers to what an operator asks of the whole bucket."""

from dataclasses import asdict

from registry import migration
from registry.endpoints import Migrate
from registry.http import Request, Response, json_response
from registry.registry import Registry


async def migrate(registry: Registry, endpoint: Migrate, request: Request) -> Response:
    """The next step of the migration from SR: ask again until `done`."""
    return json_response(200, asdict(await migration.step(registry.platform)))
