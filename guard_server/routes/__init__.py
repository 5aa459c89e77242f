"""The routes: one module a contract; each exposes `router`, and `ROUTERS` is the table that the app includes."""

from fastapi import APIRouter

from guard_server.routes import admin, litellm, llm_guard, models, moderations, probes, screen, stream

ROUTERS: tuple[APIRouter, ...] = (
    screen.router,
    stream.router,
    models.router,
    moderations.router,
    litellm.router,
    llm_guard.router,
    probes.router,
    admin.router,
)
