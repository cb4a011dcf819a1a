"""How good are these clips, how sure are we, and are they copies?"""

from __future__ import annotations

from vidiff.evaluation.comparing import Comparison, compare_files
from vidiff.evaluation.pairing import PairConfig, PairedReport
from vidiff.evaluation.report import Report, Score, Statistic
from vidiff.evaluation.robustness import Robustness
from vidiff.evaluation.running import (
    compare,
    evaluate,
    evaluate_published,
    evaluate_robustness,
    evaluate_task,
)
from vidiff.evaluation.scoring import EvalConfig, score_clips
from vidiff.evaluation.sources import load_folder, number_sources
from vidiff.evaluation.wording import summarize
from vidiff.evaluation.writing import fill_page, write_report

__all__ = [
    "Comparison",
    "EvalConfig",
    "PairConfig",
    "PairedReport",
    "Report",
    "Robustness",
    "Score",
    "Statistic",
    "compare",
    "compare_files",
    "evaluate",
    "evaluate_published",
    "evaluate_robustness",
    "evaluate_task",
    "fill_page",
    "load_folder",
    "number_sources",
    "score_clips",
    "summarize",
    "write_report",
]
