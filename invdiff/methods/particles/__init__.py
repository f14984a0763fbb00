"""Particle methods (sequential Monte Carlo). One method per file."""

from invdiff.methods.particles.fps import FPS
from invdiff.methods.particles.loop import ParticleMethod
from invdiff.methods.particles.mcg_diff import MCGDiff
from invdiff.methods.particles.mm_tsmc import MMTSMC
from invdiff.methods.particles.tds import TDS

__all__ = ["FPS", "MMTSMC", "TDS", "MCGDiff", "ParticleMethod"]
