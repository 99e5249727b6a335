"""The demo: the main job on bundled data."""

from stillbit.demo.demo import demo as demo
