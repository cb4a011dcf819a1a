"""How good are these clips, how sure are we, and are they copies?"""

from __future__ import annotations

from vidiff.evaluation.report import Report, Score, Statistic
from vidiff.evaluation.running import evaluate
from vidiff.evaluation.scoring import EvalConfig, score_clips
from vidiff.evaluation.sources import load_folder, number_sources
from vidiff.evaluation.wording import summarize
from vidiff.evaluation.writing import fill_page, write_report

__all__ = [
    "EvalConfig",
    "Report",
    "Score",
    "Statistic",
    "evaluate",
    "fill_page",
    "load_folder",
    "number_sources",
    "score_clips",
    "summarize",
    "write_report",
]
