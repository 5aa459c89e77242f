"""The part of garak in `bench.gate_vs_garak`, run by the Python of its own environment: prompts in, seconds out.

In: one JSON object on standard input (url, model, prompts, max_tokens, parallel: attempts at a time, 0 for garak's default of
one). Out: the last line of standard output, a JSON object with the seconds of the probe, how many answers came, and their texts.
Start-up and imports are not timed.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time


def main() -> None:
    """Run a probe of the given prompts through garak's OpenAI-compatible generator."""
    given = json.load(sys.stdin)
    os.environ["OPENAICOMPATIBLE_API_KEY"] = "none"
    import garak._config as config

    config.load_base_config()
    config.system.parallel_attempts = given["parallel"] or False
    config.run.generations = 1
    config.run.seed = 1
    from garak.generators.openai import OpenAICompatible
    from garak.probes.base import Probe

    settings = {"uri": f"{given['url']}/v1/", "temperature": 0, "max_tokens": given["max_tokens"], "stop": None}
    config.plugins.generators["openai"] = {"OpenAICompatible": settings}
    with tempfile.TemporaryFile("w", encoding="utf-8") as config.transient.reportfile:
        generator = OpenAICompatible(name=given["model"], config_root=config)
        probe = Probe(config_root=config)
        probe.prompts = given["prompts"]
        begun = time.perf_counter()
        attempts = probe.probe(generator)
        seconds = time.perf_counter() - begun
    came = [output.text for attempt in attempts for output in attempt.outputs if output is not None]
    print()
    print(json.dumps({"seconds": seconds, "answers": len(came), "texts": came}))


if __name__ == "__main__":
    main()
