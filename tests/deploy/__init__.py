"""Tests of what is deployed: images, chart, CI templates."""
