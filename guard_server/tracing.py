"""OpenTelemetry traces, where asked for: requests by the FastAPI instrumentation, exported by OTLP over HTTP.

Needs the extra `guard-otel`; the exporter reads the standard `OTEL_EXPORTER_OTLP_ENDPOINT` and its kin.
"""

from fastapi import FastAPI


def instrument(app: FastAPI) -> None:
    """Trace every request but the probes; raises `ImportError` naming the extra where it is not installed."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        msg = "GUARD_OTEL is on, but OpenTelemetry is not installed: pip install 'taskgate[guard-otel]'"
        raise ImportError(msg) from error
    # OTEL_SERVICE_NAME, where set, wins over the name given here.
    provider = TracerProvider(resource=Resource.create({"service.name": "taskgate-guard"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider, excluded_urls="healthz,readyz,metrics")
    app.state.tracer_provider = provider
