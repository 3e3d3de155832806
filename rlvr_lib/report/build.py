"""The report of a run: one page with a verdict per claim, every table and figure beside the paper's numbers.

``build_report`` works from whatever exists under ``runs/<profile>`` and names what is missing, so it can be called
after every stage; :mod:`rlvr_lib.report.export` copies a report and its scores to ``reports/reference``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from markupsafe import Markup

from rlvr_lib.artifacts import atomic_write_text
from rlvr_lib.evaluation.repetition import repetition_curve
from rlvr_lib.progress import MetricsLog
from rlvr_lib.provenance import provenance
from rlvr_lib.report import (
    agent_tables,
    domain_report,
    figures,
    real2sim_report,
    video_claims,
    video_figures,
    video_rlvr_figures,
)
from rlvr_lib.report.analysis_report import analysis_pictures, analysis_tables
from rlvr_lib.report.claims import NOT_RUN, Claim, evaluate_claims, write_claims
from rlvr_lib.report.domain_tables import TITLES as DOMAIN_TITLES
from rlvr_lib.report.formats import Table, write_table
from rlvr_lib.report.html import CSS_TABLES, claims_page, render_html, render_markdown, table_page
from rlvr_lib.report.scores import LABELS, WEB_COLUMNS, WEB_LABELS, load_scores
from rlvr_lib.report.stages import (
    StageRecord,
    domain_records,
    edited_outputs,
    log_label,
    metrics_logs,
    provenance_text,
    samples_text,
    setting,
    stage_records,
)
from rlvr_lib.report.tables import per_game, table1
from rlvr_lib.report.video_tables import TITLES, read_video_scores, table3
from rlvr_lib.report.web_tables import by_site, table2
from rlvr_lib.training.released import BASELINE_PARTS, VIDEO_PARTS, curve_of
from rlvr_lib.training.video_stages import DOMAIN_PARTS

if TYPE_CHECKING:
    from rlvr_lib.profile import Profile

EVALUATION, WEB_EVALUATION = "text_game_evaluation", "web_page_evaluation"
VIDEO_EVALUATIONS = ("video_evaluation", "video_base_evaluation")  # with RLVR, or the base models alone
SMOKE_WARNING = "This is a smoke run: it only shows that every step works. Its numbers mean nothing."


@dataclass
class Report:
    """Everything the page shows; ``figures`` are (file, caption), ``notebooks`` file names beside the page."""

    profile: str
    seed: int
    warnings: list[str] = field(default_factory=list)
    weights: str = ""
    remaining: list[str] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[tuple[Path, str]] = field(default_factory=list)
    stages: list[StageRecord] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    substitutions: list[str] = field(default_factory=list)
    notebooks: list[str] = field(default_factory=list)
    provenance: str = ""


def report_folder(profile: "Profile") -> Path:
    """reports/<profile>."""
    return Path(profile.reports_dir) / profile.name


def runs_folder(profile: "Profile") -> Path:
    """runs/<profile>."""
    return Path(profile.runs_dir) / profile.name


def build_report(profile: "Profile", remaining: Sequence[str] = ()) -> Path:
    """Write report.html, report.md, claims.csv, tables/ and figures/ of a profile; returns the HTML file's path.

    ``remaining`` are lines about what is still to come ("12_text_game_rlvr, about 4 min"). Missing parts are named in
    the page and never an error; a disk that cannot be written is a UserError.
    """
    runs, folder = runs_folder(profile), report_folder(profile)
    report = _begun(profile)
    report.remaining = list(remaining)
    report.weights = weights_text(report.stages)
    report.substitutions = list(dict.fromkeys(text for stage in report.stages for text in stage.substitutions))
    report.missing = [stage.problem for stage in report.stages if stage.problem]
    _write_tables(report, runs, profile, folder)
    report.figures = _figures(report, runs, folder / "figures")
    report.notebooks = sorted(path.name for path in folder.glob("notebooks/*.html"))
    report.provenance = provenance_text(provenance(threads=getattr(profile, "threads", None)))
    return _write(report, folder)


def build_tables(profile: "Profile") -> Path:
    """Write tables/ and claims.csv only, for a notebook to show; pages and figures are left to :func:`build_report`."""
    report, folder = _begun(profile), report_folder(profile)
    _write_tables(report, runs_folder(profile), profile, folder)
    return folder / "tables"


def _begun(profile: "Profile") -> Report:
    """A report that knows the stages and nothing yet of what came of them."""
    runs, warnings = runs_folder(profile), [SMOKE_WARNING] if profile.name == "smoke" else []
    return Report(profile.name, profile.seed, warnings, stages=[*stage_records(runs), *domain_records(runs)])


def _write_tables(report: Report, runs: Path, profile: "Profile", folder: Path) -> None:
    report.tables = _tables(report, runs)
    report.claims = _without_verdicts(evaluate_claims(runs, profile.seed), profile.name)
    for table in report.tables:
        write_table(table, folder / "tables")
    write_claims(report.claims, folder / "claims.csv")


def _write(report: Report, folder: Path) -> Path:
    atomic_write_text(folder / "report.md", render_markdown(report))
    atomic_write_text(folder / "report.html", render_html(report))
    return folder / "report.html"


def _without_verdicts(claims: list[Claim], profile: str) -> list[Claim]:
    """A smoke run shows its numbers but judges nothing."""
    if profile != "smoke":
        return claims
    return [
        replace(one, verdict=NOT_RUN, why="smoke run", parts=[replace(part, verdict=NOT_RUN) for part in one.parts])
        if one.parts
        else one
        for one in claims
    ]


def table1_of(profile: "Profile") -> Any:
    """Table 1 of what has been evaluated, for a notebook to display."""
    report = Report(profile.name, profile.seed, stages=stage_records(runs_folder(profile)))
    tables = _tables(report, runs_folder(profile))
    tables = [table for table in tables if table.name == "table1_text_games"]
    parts = [Markup("<p><b>{}</b></p>").format(table.title) + table_page(table) for table in tables]
    return _displayed(parts or [Markup("<p>{}</p>").format(text) for text in report.missing])


def claims_of(profile: "Profile", names: Sequence[str] = ()) -> Any:
    """The verdicts on ``names`` (default: all claims), for a notebook to display."""
    claims = _without_verdicts(evaluate_claims(runs_folder(profile), profile.seed), profile.name)
    return _displayed([claims_page([one for one in claims if not names or one.id in names])])


def _displayed(parts: list[Markup]) -> Any:
    from IPython.display import HTML

    return HTML(f"<style>{CSS_TABLES}</style>" + "".join(parts))


def weights_text(stages: list[StageRecord]) -> str:
    """Which way the run went, model by model: from released weights, or trained from scratch."""
    words = {"released": "from the released weights", "scratch": "trained from scratch"}
    parts = {"text-game base": "text_game.pretrain.start", "text-game SFT": "text_game.sft.start"}
    parts |= {"web-page base": "web_page.pretrain.start", "web-page SFT": "web_page.sft.start"}
    parts |= {f"video {part.replace('_', ' ')}": f"video.{part}.start" for part in VIDEO_PARTS}
    for domain, title in DOMAIN_TITLES.items():
        for part in DOMAIN_PARTS:
            place = f"domains.baselines.{part.split('_')[-1]}" if part in BASELINE_PARTS else f"video.{part}"
            parts[f"{title} {part.replace('_', ' ')}"] = f"{domain}.{place}.start"
    found = {label: setting(stages, dotted) for label, dotted in parts.items()}
    texts = [f"{label} {words.get(str(start), start)}" for label, start in found.items() if start]
    return ", ".join(texts) or "not recorded yet"


def _tables(report: Report, runs: Path) -> list[Table]:
    """Table 1 and its split by game; reasons for what cannot be made go to ``report.missing``."""
    web = [*_web_tables(report, runs), *_agent_tables(report, runs)]
    video = [
        *_video_tables(report, runs),
        *domain_report.tables(report, runs),
        *analysis_tables(runs, report.seed, lambda name: _short_caption(report, name)),
        *real2sim_report.tables(report, runs),
    ]
    return [*_text_game_tables(report, runs), *web, *video]


def _text_game_tables(report: Report, runs: Path) -> list[Table]:
    scores, left_out = load_scores(runs / EVALUATION)
    if not scores:
        report.missing.append("Table 1: no model has been evaluated yet")
        report.missing += [f"{LABELS[m]}: {why}" for m, why in left_out.items() if "does not exist" not in why]
        return []
    stage = next((stage for stage in report.stages if stage.name == EVALUATION), None)
    report.missing += ["The evaluation has not finished"] if stage is None else edited_outputs(runs, stage)
    caption = table_caption(report, stage or StageRecord(EVALUATION))
    return [table1(scores, report.seed, left_out, caption), per_game(scores, report.seed, caption)]


def _web_tables(report: Report, runs: Path) -> list[Table]:
    """Table 2 and its split by site."""
    scores, left_out = load_scores(runs / WEB_EVALUATION, WEB_LABELS, WEB_COLUMNS)
    if not scores:
        report.missing.append("Table 2: no web-page model has been evaluated yet")
        report.missing += [f"{WEB_LABELS[m]}: {why}" for m, why in left_out.items() if "does not exist" not in why]
        return []
    stage = next((stage for stage in report.stages if stage.name == WEB_EVALUATION), None)
    report.missing += ["The web-page evaluation has not finished"] if stage is None else edited_outputs(runs, stage)
    stage = stage or StageRecord(WEB_EVALUATION)
    variant = setting([stage], "web_page.evaluation.variant") or "not recorded"
    caption = f"{table_caption(report, stage, 'web_page')} F1 where both sides are empty: variant {variant}."
    return [table2(scores, report.seed, left_out, caption), by_site(scores, report.seed, caption)]


def _agent_tables(report: Report, runs: Path) -> list[Table]:
    """The web agent's table; without a browser the command that mends it stands among what is missing."""
    folder = runs / agent_tables.STAGE
    scores, left_out = agent_tables.load_arms(folder)
    if not scores:
        report.missing.append(f"Web agent (notebook 23): not run: {agent_tables.why_not(folder)}")
        return []
    stage = next((stage for stage in report.stages if stage.name == folder.name), StageRecord(folder.name))
    caption = agent_tables.agent_caption(report.warnings, report.profile, report.seed, stage)
    return [agent_tables.agent_table(scores, report.seed, left_out, caption)]


def _video_tables(report: Report, runs: Path) -> list[Table]:
    """Table 3 as far as it has been evaluated."""
    whole = [name for name in VIDEO_EVALUATIONS if all((runs / name / f"{kind}.csv").exists() for kind in TITLES)]
    if not whole:
        report.missing.append("Table 3: no video world model has been evaluated yet")
        return []
    paths = {kind: runs / whole[0] / f"{kind}.csv" for kind in TITLES}
    stage = next((stage for stage in report.stages if stage.name == whole[0]), StageRecord(whole[0]))
    words = [
        *report.warnings,
        f"Profile {report.profile}, seed {report.seed if stage.seed is None else stage.seed}.",
        samples_text(stage),
        _updates_text(report),
        "Brackets: 95 % percentile bootstrap over segments. The paper's LPIPS is LPIPS-VGG on RT-1; not comparable.",
        provenance_text(stage.provenance) or "Provenance of the evaluation not recorded.",
    ]
    scores = {kind: read_video_scores(path) for kind, path in paths.items()}
    return [table3(scores, report.seed, " ".join(words))]


def _short_caption(report: Report, name: str) -> str:
    """Profile, seed and provenance of the stage ``name``."""
    stage = next((stage for stage in report.stages if stage.name == name), StageRecord(name))
    words = f"Profile {report.profile}, seed {report.seed if stage.seed is None else stage.seed}."
    if samples := stage.facts.get("samples"):
        words += f" Samples per segment: {samples}."
    brackets = "Brackets: 95 % percentile bootstrap over cases, training seeds not included."
    return " ".join(
        [*report.warnings, words, brackets, provenance_text(stage.provenance) or "Provenance not recorded."]
    )


def _updates_text(report: Report) -> str:
    """How long the base models were trained; the paper's took 990 000 and 450 000 updates."""
    words = []
    for kind in TITLES:
        stage = next((stage for stage in report.stages if stage.name == f"video_{kind}_base"), None)
        facts = dict(stage.facts) if stage else {}
        facts = facts.get("manifest", {}).get("facts", facts)  # released weights carry those of their own training
        steps = facts.get("kept_step") or facts.get("steps") or "an unknown number of"
        words.append(f"{kind.replace('_', '-')} {steps}")
    return f"Likelihood updates: {', '.join(words)} (paper: 990 000 and 450 000)."


def table_caption(report: Report, stage: StageRecord, modality: str = "text_game") -> str:
    """Provenance of the scores: profile, seed, sampling, then commit, date, hardware and versions of the evaluation."""
    temperature = setting([stage], f"{modality}.evaluation.temperature")
    sampling = "not recorded" if temperature is None else f"{temperature}{' (greedy)' if temperature == 0 else ''}"
    source = setting([stage, *report.stages], f"{modality}.data.source")
    seed = report.seed if stage.seed is None else stage.seed
    words = [
        *report.warnings,
        f"Profile {report.profile}, seed {seed}{f', data: {source}' if source else ''}.",
        f"Sampling temperature {sampling} unless a row says otherwise.",
        "Brackets: 95 % percentile bootstrap over cases, training seeds not included.",
        provenance_text(stage.provenance) or "Provenance of the evaluation not recorded.",
    ]
    return " ".join(words)


def _figures(report: Report, runs: Path, folder: Path) -> list[tuple[Path, str]]:
    games = (figures.PANELS, "Text games: reward, accuracy, KL, entropy, length during RLVR.")
    pages = (figures.WEB_PANELS, "Web pages: F1, precision, recall, KL, entropy, length during RLVR.")
    drawn = _training_figures(report, runs, folder, "text_game", LABELS, *games)
    drawn += _bars(report, "table1_text_games", folder / "table1_bars", figures.GAME_BARS)
    drawn += _training_figures(report, runs, folder, "web_page", WEB_LABELS, *pages)
    drawn += _bars(report, "table2_web_pages", folder / "table2_bars", figures.WEB_BARS)
    drawn += _video_figures(report, runs, folder)
    analysed = analysis_pictures(runs, report.seed, folder, _metric_name(report))
    if not analysed:
        report.missing.append("Figure 4: the model analysis (notebook 36) has not been run yet")
    return [*drawn, *analysed, *real2sim_report.pictures(report, runs, folder)]


def _metric_name(report: Report) -> str:
    """The perceptual metric of the video stages."""
    return next((str(stage.facts["metric"]) for stage in report.stages if "metric" in stage.facts), "LPIPS")


def _bars(report: Report, name: str, path: Path, wanted: Sequence[str]) -> list[tuple[Path, str]]:
    table = next((table for table in report.tables if table.name == name), None)
    if table is None:
        return []
    figures.accuracy_bars(table.data, path=path, wanted=wanted)
    return [(path.with_suffix(".png"), f"Table {name[5]} as bars; hollow diamonds are the paper's numbers.")]


def _training_figures(
    report: Report, runs: Path, folder: Path, modality: str, labels: dict[str, str], panels: Sequence, caption: str
) -> list[tuple[Path, str]]:
    """RLVR curves of a language modality and a likelihood curve for each of its other trainings."""
    drawn: list[tuple[Path, str]] = []
    title = caption.partition(":")[0]
    logs = metrics_logs(runs, modality)
    rlvr = {name: records for name, records in logs.items() if any("reward" in record for record in records)}
    if rlvr:
        labelled = {log_label(name, labels): records for name, records in rlvr.items()}
        figures.text_game_curves(labelled, folder / f"{modality}_curves", panels)
        drawn.append((folder / f"{modality}_curves.png", caption))
    else:
        report.missing.append(f"{title[:-1].replace(' ', '-')} training curves: no RLVR run has logged anything yet")
    for name, records in logs.items():
        if name not in rlvr and any("loss" in record for record in records):
            line = f"{title}, {log_label(name, labels)}: likelihood training"
            path = folder / f"{modality}_{name}_loss"
            figures.likelihood_curve(records, path, line)
            drawn.append((path.with_suffix(".png"), f"{line}, training and validation loss."))
    return drawn


def _video_figures(report: Report, runs: Path, folder: Path) -> list[tuple[Path, str]]:
    """Figure 3 as far as it has been trained."""
    stages = {kind: runs / f"video_{kind}_base" for kind in TITLES}
    if not all((stage / "done.json").exists() for stage in stages.values()):
        report.missing.append("Figure 3: the video world models have not been trained yet")
        return []
    metric = _metric_name(report)
    likelihood = {TITLES[kind]: curve_of(stage) for kind, stage in stages.items()}
    rlvr = {TITLES[kind]: MetricsLog(runs / f"video_{kind}_rlvr" / "metrics.jsonl").read() for kind in TITLES}
    path = folder / "figure3_mle_then_rlvr"
    if not all(rlvr.values()):
        video_figures.figure3_likelihood(likelihood, metric, path=path)
        return [(path.with_suffix(".png"), "Figure 3, left part: likelihood training of the video world models.")]
    longer = runs / "video_multi_step_third"
    control = {TITLES["multi_step"]: curve_of(longer)} if (longer / "done.json").exists() else None
    video_rlvr_figures.figure3(likelihood, rlvr, metric, control, path=path)
    shown = setting(report.stages, "video.multi_step_rlvr.evaluate_segments") or "an unknown number of"
    words = f"Figure 3: likelihood, then RLVR ({shown} held-out segments, one sample each). Released weights were "
    words += "validated on segments of their own training (left), RLVR on this run's (right): the panels need not meet."
    drawn = [(path.with_suffix(".png"), words)]
    path = folder / "figure8_training"
    video_rlvr_figures.figure8(rlvr, metric, path=path)
    drawn.append((path.with_suffix(".png"), "Figure 8: reward, L1 and perceptual metric during RLVR."))
    study = runs / video_claims.EVALUATION / "repetition.csv"
    if study.exists():
        path = folder / "repetition_by_frame"
        video_rlvr_figures.repetition_figure(repetition_curve(pd.read_csv(study), report.seed), path)
        words = "Repetition by frame, under fresh noise and under the noise that the released evaluator shares."
        drawn.append((path.with_suffix(".png"), words))
    return drawn
