"""Every family by the three commands: what they write, and what they refuse."""

import json

import numpy as np
import pytest
from pages import Page
from PIL import Image
from smoke import Compiled, last_line, load
from tiny_runs import OF_TEXT, RUNS, check_tiny, train_tiny

import diffusion_jax as dj
from diffusion_jax import (
    evaluators,
    methods,
    run_config,
    run_data,
    runs,
    task_runner,
)
from diffusion_jax.compare import compare
from diffusion_jax.evaluate import evaluate
from diffusion_jax.evaluators import tables
from diffusion_jax.methods import latent_tasks
from diffusion_jax.outputs import writers
from diffusion_jax.report import report
from diffusion_jax.sample import sample
from diffusion_jax.training_loop import train

BETWEEN = latent_tasks.NUM_COLUMNS
COLUMNS = {  # images in a row
    "reconstruct": 2,
    "interpolate": BETWEEN,
    "slerp": BETWEEN,
    "traverse": BETWEEN,
    "manifold": 20,
    "translate": 6,
    "a_to_b": 2,
    "b_to_a": 2,
    "stages": 2,
    "guidance": 5,
    "mix": 7,
}
# The metrics of a record: the score first. "NAME" is the classifier's.
OF_SAMPLES = [
    *("FD of NAME", "FD of NAME, real", "FD of pixels", "FD of pixels, real"),
    *("confident_share", "histogram", "classes_covered", "num_classes", "precision"),
    *("recall", "density", "coverage", "nearest_distance"),
]
BASELINES = "uniform", "unigram", *(f"{n}-gram" for n in range(2, 6))
CONTROLS = "", ", real", ", condition"
METRICS = {
    "bits_per_character": [
        "bits_per_character",
        *[f"bits_per_character, {name}" for name in BASELINES],
        *["nats_per_token", "perplexity_per_token"],
    ],
    "exact_match": ["error", "exact_match", "token_error_rate"],
    "bleu": ["negative_bleu", "bleu"],
    "perplexity": ["nats_per_token", "perplexity_per_token"],
    "reconstruction": "squared_error standard_error squared_error_of_pca".split(),
    "elbo": "negative_elbo standard_error reconstruction kl negative_importance_bound "
    "active_units num_latents".split(),
    "token_nats": ["nats_per_code", "nats_per_code, uniform", "nats_per_token"],
    "codes": "squared_error standard_error psnr perplexity usage num_codes accuracy "
    "accuracy_real".split(),
    "modes": "modes_missing modes_covered num_modes modes_touched share_within_3_sigma "
    "histogram".split(),
    "translation": "class_lost distance_to_pair cycle class_kept_to_a class_kept_to_b "
    "distance_to_pair_a distance_to_pair_b cycle_a cycle_b".split(),
    "paired": [
        *[f"FD of {x}{y}" for x in ("NAME", "pixels") for y in CONTROLS],
        *["absolute_error", "absolute_error, condition", "psnr", "psnr, condition"],
        *[f"accuracy{x}" for x in CONTROLS],
    ],
    "accuracy": ["error", "accuracy"],
    "retrieval": ["retrieval_error", "image_to_text_recall", "text_to_image_recall"],
    "retrieval of samples": [
        *("retrieval_error", "image_to_text_recall", "image_to_text_recall, real")
    ],
    "samples": OF_SAMPLES,
    "copying": [
        "copied_share",
        "copied_share_real",
        "nearest_distance",
        "nearest_distance_real",
    ],
}
EVALUATED = [
    *[("autoencoder", "reconstruction"), ("autoencoder", "samples")],
    *[("vae", "elbo"), ("vae", "reconstruction"), ("vae", "samples")],
    *[("dvae", "codes"), ("vqvae", "codes"), ("dalle", "token_nats")],
    *[("dalle", "samples"), ("digits_captions", "samples")],
    *[("conv", "reconstruction"), ("gan", "samples"), ("dcgan", "samples")],
    *[("points", "modes"), ("cyclegan", "translation")],
    *[("pix2pix", "paired"), ("pix2pix", "samples")],
    *[("classifier", "accuracy"), ("cascade", "samples"), ("upsampler", "samples")],
    *[("contrastive", "retrieval"), ("cascade", "retrieval")],
    *[("dalle", "retrieval"), ("digits_captions", "retrieval")],
    ("upsampler", "paired"),
    *[(x, "copying") for x in "autoencoder vae gan pix2pix cascade dalle".split()],
    *[("language_model", "bits_per_character"), ("seq2seq", "exact_match")],
    *[("seq2seq", "bleu"), ("seq2seq", "perplexity")],
]
TASKS = [
    *[("autoencoder", task) for task in ("reconstruct", *latent_tasks.TASKS)],
    *[("vae", task) for task in ("reconstruct", "sample", "traverse")],
    *[("dvae", "reconstruct"), ("vqvae", "reconstruct")],
    *[("dcgan", "sample"), ("dcgan", "interpolate")],
    *[("conv", "reconstruct"), ("gan", "sample"), ("points", "sample")],
    *[("cyclegan", "translate"), ("upsampler", "translate")],
    *[("cyclegan", "a_to_b"), ("cyclegan", "b_to_a")],
    *[("pix2pix", "sample"), ("pix2pix", "translate")],
    *[("cascade", "stages"), ("cascade", "translate")],
    *[("digits_captions", "guidance"), ("digits_captions", "mix")],
]
ARRAYS = [  # tasks without images or text
    *[("vae", "elbo"), ("classifier", "classify"), ("language_model", "nats")],
    *[("seq2seq", "target_nats"), ("dvae", "codes"), ("vqvae", "codes")],
    *[("dalle", "token_nats"), ("contrastive", "embed")],
]
TEXTS = [("language_model", "sample")]
PAIRS = [("seq2seq", "sample"), ("seq2seq", "align")]
CAPTIONED = [(x, "sample") for x in ("dalle", "digits_captions", "cascade")]
CONDITIONAL = "dcgan", "cascade", "digits_captions"


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """Returns f(name): the folder of a run of two steps, trained when first asked for,
    its config, and what it drew after the last step."""
    trained = {}

    def run(name):
        if name not in trained:
            trained[name] = train_tiny(name, tmp_path_factory.mktemp(name))
        workdir, config, drawn = trained[name]
        return workdir, config.copy_and_resolve_references(), drawn

    return run


@pytest.mark.parametrize("name", RUNS)
def test_tiny_trains_and_samples(name, run_of):
    """At :tiny each family trains for two steps and draws finite images or text."""
    check_tiny(*run_of(name))


@pytest.mark.parametrize("name, task", TASKS)
def test_task(name, task, run_of):
    """A task writes an npz file and a PNG, one row per example, and on request an
    animation of its columns; samples are images, with labels where there are any."""
    workdir, config, _ = run_of(name)
    animation = task in ("traverse", "translate")
    config.sample.update(task=task, num_examples=4, batch_size=4, animation=animation)
    if task in ("a_to_b", "b_to_a"):  # without the other domain
        config.data["source_b" if task == "a_to_b" else "source"] = "folder:nosuch"
    sample(config, workdir)
    with np.load(workdir / f"{task}.npz", allow_pickle=False) as arrays:
        arrays = dict(arrays)
    if name == "points":
        assert set(arrays) == {"points"}
        assert arrays["points"].shape == (4, 2)
        assert arrays["points"].dtype == np.float32
        Image.open(workdir / f"{task}.png").verify()
    else:
        rows = task in COLUMNS
        images = arrays["rows" if rows else "image"]
        labels = {"label"} if name in CONDITIONAL else set()
        captioned = name in ("cascade", "digits_captions")
        labels |= {"caption"} if captioned else set()
        labels |= {"partner_caption"} if task == "mix" else set()
        assert arrays.keys() == {"rows" if rows else "image"} | labels
        shape = (4, COLUMNS[task], 8, 8, 1) if rows else (4, 8, 8, 1)
        assert images.shape == shape and images.dtype == np.uint8
        assert max(Image.open(workdir / f"{task}.png").size) >= 512
    if (name, task) == ("dcgan", "sample"):
        assert arrays["label"].tolist() == [0, 1, 2, 3]  # in turn
    assert (workdir / f"{task}.gif").exists() == animation
    if animation:  # GIF drops a frame that equals the one before
        frames = Image.open(workdir / f"{task}.gif").n_frames
        assert 1 < frames <= COLUMNS[task]


@pytest.mark.parametrize("name, task", TEXTS)
def test_task_of_text(name, task, run_of, capsys):
    """A task writes an npz file of tokens and a text file with a text per example, of
    which the first four are printed; each begins with the prompt."""
    workdir, config, _ = run_of(name)
    config.sample.update(task=task, num_examples=6, batch_size=4, prompt="the ")
    sample(config, workdir)
    with np.load(workdir / f"{task}.npz", allow_pickle=False) as arrays:
        (tokens,) = arrays.values()
    vocabulary = run_config.stored_fields(config, workdir)["tokens"].vocabulary
    texts = [vocabulary.decode(row) for row in tokens]
    assert len(texts) == 6 and all(x.startswith("the ") for x in texts)
    separator = "\n" if not any("\n" in x for x in texts) else f"\n{writers.RULE}\n"
    written = (workdir / f"{task}.txt").read_text(encoding="utf-8")
    assert written == separator.join(texts) + "\n"
    printed = capsys.readouterr().out
    assert all(text in printed for text in texts[:4]) and texts[5] not in printed


@pytest.mark.parametrize("name, task", PAIRS)
def test_task_of_pairs(name, task, run_of, capsys):
    """A task writes sources and texts as arrays, and side by side as text, which is
    printed; alignments are a picture; a prompt replaces the sources of the data."""
    workdir, config, _ = run_of(name)
    config.sample.update(task=task, num_examples=3, batch_size=4)
    sample(config, workdir)
    lines = (workdir / f"{task}.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3 and all(line.count("\t") == 1 for line in lines)
    assert "\n".join(lines) in capsys.readouterr().out
    with np.load(workdir / f"{task}.npz", allow_pickle=False) as arrays:
        fields = run_config.stored_fields(config, workdir)
        for key, side in (("source", 0), ("text", 1)):
            vocabulary = fields["target" if side else "source"].vocabulary
            texts = [vocabulary.decode(row) for row in arrays[key]]
            assert texts == [line.split("\t")[side] for line in lines]
        assert ("alignment" in arrays) == (task == "align")
    if task == "align":
        Image.open(workdir / f"{task}.png").verify()
    config.sample.prompt = "123"
    sample(config, workdir)
    lines = (workdir / f"{task}.txt").read_text(encoding="utf-8").splitlines()
    assert all(line.startswith("123\t") for line in lines)


@pytest.mark.parametrize("name, task", CAPTIONED)
def test_task_of_captions(name, task, run_of, capsys):
    """A task writes images with the captions and labels of the data, and the captions
    as text; several prompts take their place, each for as many images."""
    workdir, config, _ = run_of(name)
    config.sample.update(task=task, num_examples=6, batch_size=4)
    sample(config, workdir)
    field = run_config.stored_fields(config, workdir)["caption"]
    held_out = run_data.open_held_out(config).read(np.arange(6))
    with np.load(workdir / f"{task}.npz", allow_pickle=False) as arrays:
        assert arrays["image"].shape == (6, 8, 8, 1)
        for key in ("caption", "label"):
            np.testing.assert_array_equal(arrays[key], held_out[key])
    texts = [field.vocabulary.decode(row) for row in held_out["caption"]]
    assert (workdir / f"{task}.txt").read_text().splitlines() == texts
    Image.open(workdir / f"{task}.png").verify()
    config.sample.prompt = "a seven|The digit two."
    sample(config, workdir)
    with np.load(workdir / f"{task}.npz", allow_pickle=False) as arrays:
        of_stages = {"base_image"} if name == "cascade" else set()
        assert arrays.keys() == {"image", "caption"} | of_stages
        texts = [field.vocabulary.decode(row) for row in arrays["caption"]]
    assert texts == ["a seven"] * 3 + ["the digit two"] * 3
    config.sample.num_examples = 1
    with pytest.raises(ValueError, match="has 2 prompts, .* is only 1: increase it"):
        sample(config, workdir)


@pytest.mark.parametrize("name, task", CAPTIONED)
def test_reranking(name, task, run_of):
    """Of more candidates the score is never lower; with one the samples are those of a
    run without the options; labels and captions stay those of the data."""
    workdir, config, _ = run_of(name)
    config.sample.update(task=task, num_examples=6, batch_size=4)
    found = {}
    for number in (1, 2, 4):
        scorer = str(run_of("contrastive")[0]) if number > 1 else ""
        config.sample.update(num_candidates=number, scorer=scorer)
        sample(config, workdir)
        with np.load(workdir / f"{task}.npz", allow_pickle=False) as arrays:
            found[number] = dict(arrays)
    for key in ("caption", "label"):
        np.testing.assert_array_equal(found[1][key], found[4][key])
    assert found[4].keys() - found[1].keys() == {"score"}
    scores = found[2]["score"], found[4]["score"]
    assert np.all(scores[1] >= scores[0]) and np.any(scores[1] > scores[0])
    same = np.all(found[1]["image"] == found[2]["image"], axis=(1, 2, 3))
    assert same.any() and not same.all()  # the first candidate is the sample
    images = dj.load(workdir).sample(6, batch_size=4, num_candidates=4, scorer=scorer)
    np.testing.assert_array_equal(images, found[4]["image"])


def test_retrieval_refuses(run_of):
    """Samples without captions, a prompt, and no scorer."""
    workdir, config, _ = run_of("digits_captions")
    config.eval.metric = "retrieval"
    with pytest.raises(ValueError, match="needs a scorer: set eval.scorer"):
        evaluate(config, workdir)
    config.sample.prompt = "a seven"
    with pytest.raises(ValueError, match="leave sample.prompt out"):
        evaluate(config, workdir)
    config = load("digits", eval__metric="retrieval")
    method = methods.make(config, run_data.open_held_out(config).fields)
    with pytest.raises(ValueError, match="model.caption_width = 0"):
        evaluators.make(config, method, workdir)


def test_prompts_of_other_tasks(run_of):
    """A task that reads no prompt refuses one."""
    workdir, config, _ = run_of("digits_captions")
    config.sample.update(task="reconstruct", prompt="a seven")
    with pytest.raises(ValueError, match="sample.prompt has no effect on this task"):
        sample(config, workdir)


def test_partners_of_prompts(run_of):
    """Each of ten examples of three prompts has the next prompt as its partner's, the
    last one the first; a single prompt is refused, and so are candidates of rows."""
    _, config, _ = run_of("digits_captions")
    method = methods.make(config, run_data.open_train(config).fields)
    config.sample.update(num_examples=10, prompt="a one|a two|a three")
    source = task_runner.make(config, method, "mix").source
    captions = [source[i]["caption"] for i in range(10)]
    partners = [source[i]["partner_caption"] for i in range(10)]
    firsts = [captions[0], captions[4], captions[7]]
    np.testing.assert_array_equal(captions, np.repeat(firsts, (4, 3, 3), axis=0))
    others = np.repeat(np.roll(firsts, -1, axis=0), (4, 3, 3), axis=0)
    np.testing.assert_array_equal(partners, others)
    config.sample.prompt = "a one"
    with pytest.raises(ValueError, match="goes from one prompt to the next"):
        task_runner.make(config, method, "mix")
    config.sample.update(scorer="runs/x", num_candidates=2)
    with pytest.raises(ValueError, match="sample.scorer has no effect on this task"):
        task_runner.make(config, method, "guidance")


def test_partners_of_classes():
    """Where classes are drawn in turn, a partner has another class."""
    config = load("digits", model__num_classes=10)
    method = methods.make(config, run_data.open_train(config).fields)
    source = task_runner.make(config, method, "mix").source
    for i in range(config.sample.num_examples):
        assert source[i]["label"] != source[i]["partner_label"]


def test_label_of_tasks_with_data():
    """A task that takes its examples from the data refuses a class."""
    config = load("digits", model__num_classes=10, sample__label=3)
    method = methods.make(config, run_data.open_train(config).fields)
    with pytest.raises(ValueError, match="sample.label has no effect on this task"):
        task_runner.make(config, method, "reconstruct")


@pytest.mark.parametrize(
    "task, num, repeats",
    [("reconstruct", 360, True), ("reconstruct", 359, False), ("traverse", 400, True)]
    + [("manifold", 400, False), ("sample", 400, False)],  # without data
)
def test_rows_that_repeat(task, num, repeats, caplog):
    """More rows than the 359 digits of the split repeat them, which is a warning."""
    config = load("digits_vae", sample__num_examples=num)
    method = methods.make(config, run_data.open_train(config).fields)
    task_runner.make(config, method, task)
    words = f": 359 examples, fewer than sample.num_examples = {num}, so they repeat"
    assert (words in caplog.text) == repeats


@pytest.mark.parametrize("name", ["dcgan", "vae", "points", "pix2pix", *OF_TEXT])
def test_samples_from_python(name, run_of):
    """`load` and `sample` give what --mode=sample writes for the same options."""
    workdir, config, _ = run_of(name)
    config.sample.update(task="sample", num_examples=3, batch_size=2, seed=5)
    sample(config, workdir)
    found = dj.load(workdir).sample(3, batch_size=2, seed=5)
    with np.load(workdir / "sample.npz", allow_pickle=False) as arrays:
        (key,) = arrays.keys() - {"label", "source"}
        expected = arrays[key]
    if name in OF_TEXT:
        field = run_config.stored_fields(config, workdir)
        vocabulary = field["target" if name == "seq2seq" else "tokens"].vocabulary
        assert found == [vocabulary.decode(row) for row in expected]
    else:
        np.testing.assert_array_equal(found, expected)


def test_options_from_python(run_of):
    """An option is a key of the group sample; a prompt is a text."""
    model = dj.load(run_of("seq2seq")[0])
    outputs = model.run("align", 2, prompt="123")
    assert outputs["source"] == ["123", "123"] and len(outputs["alignment"]) == 2
    with pytest.raises(ValueError, match="no 'promt' in config.sample. Known: "):
        model.sample(promt="123")
    with pytest.raises(ValueError, match="checkpoint: not an option here. .*load"):
        model.sample(checkpoint="best")
    with pytest.raises(ValueError, match="sample.num_examples"):
        model.sample(0)
    with pytest.raises(ValueError, match="Unknown task of a seq2seq model 'encode'"):
        model.run("encode")
    with pytest.raises(ValueError, match="sample.prompt contains 'x'"):
        model.sample(prompt="x")
    with pytest.raises(TypeError, match="integer, not '123'. Options have names"):
        model.run("align", "123")
    with pytest.raises(TypeError, match="prompt must be a text or a list .*, not 123"):
        model.sample(prompt=123)
    with pytest.raises(TypeError, match="beam_size must be of type int, not '2'"):
        model.sample(beam_size="2")
    assert model.sample(np.int64(1), prompt="12", beam_size=np.int32(2))
    with pytest.raises(AttributeError, match="diffusion_jax has no 'lod'"):
        dj.lod  # noqa: B018


@pytest.mark.parametrize("name, task", ARRAYS)
def test_task_without_images(name, task, run_of):
    """The outputs of a task without images are written as arrays, one row each."""
    workdir, config, _ = run_of(name)
    config.sample.update(task=task, num_examples=4, batch_size=4)
    sample(config, workdir)
    with np.load(workdir / f"{task}.npz", allow_pickle=False) as arrays:
        assert arrays and all(len(x) == 4 for x in arrays.values())
    assert not (workdir / f"{task}.png").exists()


def test_every_task_and_metric_is_tested():
    """The tables above leave out no metric of any family, and no task."""
    every = TASKS + ARRAYS + TEXTS + PAIRS + CAPTIONED
    evaluated, tested = {}, {task for _, task in every}
    for name, config_name in RUNS.items():
        method = load(config_name).method
        if method == "ddpm":  # tests/test_tasks.py has its other tasks
            continue
        here = {metric for x, metric in EVALUATED if x == name}
        evaluated.setdefault(method, set()).update(here)
        assert methods.FAMILIES[method].tasks.keys() <= tested
    for method, here in evaluated.items():
        tasks = methods.FAMILIES[method].tasks.keys()
        rows = evaluators.EVALUATORS.items()
        own = {metric for metric, row in rows if row.fits(tasks)}
        assert here - {"modes"} == own - {"modes"}  # modes: of any family on grid25


@pytest.mark.parametrize("name, metric", EVALUATED)
def test_metric(name, metric, run_of):
    """A record holds its family's metrics, the score first and all finite, and the
    settings they depend on; a metric of a classifier's features bears its name. The
    table that is printed explains all metrics but the numbers of examples."""
    if metric == "bleu":
        pytest.importorskip("sacrebleu")
    workdir, config, _ = run_of(name)
    config.eval.metric = metric
    extractor = "classifier" in config.eval and name != "points"
    extractor &= metric != "elbo" and config.method not in OF_TEXT
    if extractor:
        classifier, _, _ = run_of("classifier")
        config.eval.classifier = str(classifier)
        if "classifier_b" in config.eval:
            config.eval.classifier_b = str(classifier)
    expected = METRICS[metric]
    if "scorer" in config.eval and metric == "retrieval":
        config.eval.scorer = str(run_of("contrastive")[0])
        expected = METRICS["retrieval of samples"]
    evaluate(config, workdir)
    record = last_line(workdir)
    conditional = name in CONDITIONAL or name == "dalle"
    if metric == "samples" and conditional:
        conditional = "conditional_accuracy"
        expected = [*expected, conditional, f"{conditional}, shuffled"]
    expected = [key.replace("NAME", "digits_classifier_tiny") for key in expected]
    common = ["metric", "config", "step", "data", "parameters"]
    assert list(record)[: 5 + len(expected)] == common + expected
    described = [record[key] for key in ("metric", "config", "step")]
    assert described == [metric, config.name, 2]
    for key in expected:
        assert np.all(np.isfinite(record[key])), key
        if not key.startswith("num_") and key not in ("histogram", "standard_error"):
            assert tables.is_metric(key), key
    if "histogram" in record:
        number = config.sample.num_examples
        assert sum(record["histogram"]) <= number
        assert metric == "modes" or sum(record["histogram"]) == number
    if metric == "samples" and extractor:
        assert record["classifier"] == "digits_classifier_tiny"
        assert 0 <= record["accuracy_real"] <= 1


@pytest.mark.parametrize("name", RUNS)
def test_report(name, run_of, tmp_path):
    """The page stands alone: it is well-formed, loads nothing, describes each picture,
    and has every picture and metric of the run."""
    workdir, config, _ = run_of(name)
    report(config, workdir, tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert not page.open and not page.loads and page.title == config.name
    assert all(x.startswith("data:image/png;base64,") for x in page.sources)
    pictures = {*workdir.glob("samples/*.png"), *workdir.glob("*.png")}
    assert len(page.sources) >= len(pictures) and all(page.alts)
    lines = (workdir / "evaluations.jsonl").is_file()
    assert lines == ("Metrics" in page.headings)
    assert f"--workdir={workdir}" in page.text


@pytest.mark.parametrize("name", RUNS)
def test_compare(name, run_of, tmp_path):
    """A run of each family is compared with one of another: nothing is compiled, and
    the page stands alone and describes each picture."""
    other = "vae" if name == "autoencoder" else "autoencoder"
    folders = [str(run_of(x)[0]) for x in (name, other)]
    with Compiled() as programs:
        compare(folders, str(tmp_path))
    page = Page((tmp_path / "compare.html").read_text(encoding="utf-8"))
    assert not programs and not page.open and not page.loads and all(page.alts)
    assert all(x.startswith("data:image/png;base64,") for x in page.sources)
    assert run_of(name)[1].name in page.text


def test_metrics_during_training(tmp_path):
    """With train.evaluate_every the metrics of eval.metric are logged with the name of
    the split, the checkpoint with the lowest score is "best", and both the losses and
    the metrics are plotted."""
    config = load("digits_autoencoder")
    config.train.update(num_steps=2, evaluate_every=1, sample_every=0, log_every=1)
    train(config, tmp_path)
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").open()]
    scores = {
        line["step"]: line["test_squared_error"]
        for line in lines
        if "test_squared_error" in line
    }
    assert set(scores) == {1, 2}
    assert runs.load(config, tmp_path, "best").step == min(scores, key=scores.get)
    for name in ("loss", "metrics"):
        assert max(Image.open(tmp_path / f"plots/{name}.png").size) >= 512


def test_no_classifier(run_of):
    """The error about a missing classifier has the command that trains it; the run of
    another family is refused."""
    workdir, config, _ = run_of("gan")
    config.eval.classifier = "runs/nosuch_classifier"
    command = "_classifier.py --config.data.source=digits --workdir=runs/nosuch"
    with pytest.raises(FileNotFoundError, match=f"Train one first: .*{command}"):
        evaluate(config, workdir)
    config.eval.classifier = str(workdir)
    with pytest.raises(ValueError, match="is a gan, not a classifier"):
        evaluate(config, workdir)


def test_classifier_of_another_shape(run_of, tmp_path):
    """A classifier of images of another shape is refused."""
    workdir, _, _ = run_of("classifier")
    images = np.zeros((4, 16, 16, 1), np.uint8)
    np.savez(tmp_path / "x.npz", images=images, test_images=images + 1)
    config = load("digits_gan", data__source=f"npz:{tmp_path}/x.npz")
    config.data.image_size = 16
    config.train.update(num_steps=2, evaluate_every=1, sample_every=0)
    config.eval.classifier = str(workdir)
    words = r"\(8, 8, 1\), but these have shape \(16, 16, 1\)"
    with pytest.raises(ValueError, match=words):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "name", ["autoencoder", "gan", "cyclegan", "pix2pix", "classifier"]
)
def test_unknown_metric_of_a_family(name, run_of):
    """The metric of another family is refused with those that this one has."""
    workdir, config, _ = run_of(name)
    config.eval.metric = "vlb"
    here = {metric for x, metric in EVALUATED if x == name}
    words = rf"Unknown eval.metric of a {config.method} 'vlb'. Known: (.*)\."
    with pytest.raises(ValueError, match=words) as error:
        evaluate(config, workdir)
    known = str(error.value).partition("Known: ")[2].rstrip(".").split(", ")
    assert here <= set(known)


def test_unknown_task_of_a_family(run_of):
    """A task that the family does not have is refused with those that it has."""
    workdir, config, _ = run_of("classifier")
    words = "Unknown task of a classifier model 'sample'. Known: classify."
    with pytest.raises(ValueError, match=words):
        sample(config, workdir)


@pytest.fixture
def uncompiled():
    """Nothing is compiled during the test."""
    with Compiled() as names:
        yield
    assert not names


@pytest.fixture
def data(tmp_path):
    """Sources that the tests below name: images of other sizes, of one class."""
    for size in (8, 9, 16):
        images = np.zeros((8, size, size, 1), np.uint8)
        np.savez(tmp_path / f"{size}.npz", images=images, test_images=images)
    (tmp_path / "empty").mkdir()
    return tmp_path


SIZE_9 = {"data.source": "npz:9.npz", "data.image_size": 9}
PAIR_9 = SIZE_9 | {"data.train_split": "train", "data.train_split_b": "train"}
PAIR_9 |= {"data.source_b": "npz:9.npz"}
SPLITS = {"data.train_split": "train", "data.train_split_b": "train"}
REFUSED = [
    # the data
    ("digits_cyclegan", {"data.source_b": "npz:16.npz"} | SPLITS, "16x16x1"),
    ("digits_cyclegan", {"data.source_b": "folder:empty"} | SPLITS, "no images in"),
    ("digits_cyclegan", {"data.source_b": "folder:nosuch"} | SPLITS, "no folder"),
    ("digits_cyclegan", {"data.train_split_b": "nosuch"}, "nosuch.*train_odd"),
    ("digits_vae", {"data.source": "folder:empty"}, "no images in"),
    (
        "digits_dcgan",
        {"data.source": "npz:8.npz", "model.num_classes": 10},
        "Every label of .*npz is 0.*nothing to learn",
    ),
    ("digits_gan", {"gan.critic_steps": 2}, "batch_size = 8.*8 devices in 2 parts"),
    ("digits_classifier", {"data.source": "npz:8.npz"}, "Every label of .* is 0"),
    ("digits_classifier", {"model.num_classes": 5}, "has 10 classes.*num_classes is 5"),
    ("digits_dcgan", {"model.num_classes": 5}, "has 10 classes.*num_classes is 5"),
    # sizes that a network cannot have
    ("digits_dcgan", SIZE_9, r"data.image_size = 9 cannot be halved.*use 8, 16, 28"),
    ("fashion_mnist_autoencoder", SIZE_9, "data.image_size = 9: use 8 or 10"),
    ("horse2zebra_cyclegan", PAIR_9, "ResNet.*multiple of 2.*it is 9"),
    ("digits_cyclegan", {"model.num_downsamplings": 3}, "at least 16.*it is 8"),
    ("digits_cyclegan", {"model.disc_layers": 2}, "at least 12x12 pixels"),
    # batches
    *[
        (name, {"data.batch_size": 12}, "data.batch_size = 12.*8 devices")
        for name in (
            *("digits_vae", "digits_gan", "digits_cyclegan", "digits_pix2pix"),
            "digits_classifier",
        )
    ],
    ("digits_gan", {"gan.critic_steps": 2}, "batch_size = 8.*in 2 parts"),
    # values
    ("digits_vae", {"vae.beta": -1.0}, "vae.beta.*-1"),
    ("digits_vae", {"vae.likelihood": "nosuch"}, "nosuch.*bernoulli"),
    (
        "fashion_mnist_vae",
        {"vae.likelihood": "gaussian"},
        "binarize draws pixels.*'gaussian'.*bernoulli",
    ),
    (
        "digits_vae",
        {"eval.num_importance": 0, "train.evaluate_every": 2},
        "eval.num_importance.*at least 1",
    ),
    ("digits_autoencoder", {"autoencoder.noise_scale": 0.0}, "noise_scale.*above 0"),
    ("digits_autoencoder", {"model.num_latents": 0}, "model.num_latents.*at least 1"),
    (
        "digits_autoencoder",
        {"model.num_latents": 1, "sample.task": "manifold"},
        "manifold.*two latents.*traverse",
    ),
    ("digits_dvae", SIZE_9, "factor of 2.*multiples of 2.*9x9"),
    ("digits_dvae", {"model.name": "conv"}, "model.name.*gumbel, vq"),
    ("digits_dvae", {"sample.task": "sample"}, "sample.*Known: reconstruct, codes"),
    (
        "digits_captions",
        {"model.caption_width": 7},
        "caption_width = 7 must be even and a multiple of model.caption_heads = 2",
    ),
    (
        "digits_captions",
        {"model.caption_heads": 3},
        "caption_width = 8 must be even and a multiple of model.caption_heads = 3",
    ),
    (
        "digits_captions",
        {
            "model.caption_heads": 16,
            "model.num_blocks": 1,
            "model.caption_width": 16,
            "model.attention_resolutions": (8,),
        },
        "height 8 .* 8 channels .*multiple of model.caption_heads = 16",
    ),
    (  # the middle of the U-Net always attends
        "digits_captions",
        {
            "model.caption_heads": 3,
            "model.num_blocks": 1,
            "model.caption_width": 6,
            "model.attention_resolutions": (),
        },
        "height 4 .* 16 channels .*multiple of model.caption_heads = 3",
    ),
    ("digits_gan", {"gan.loss": "nosuch"}, "nosuch.*minimax.*wasserstein"),
    ("digits_gan", {"gan.r1": -1.0}, "gan.r1.*-1"),
    ("digits_gan", {"sample.label": 3}, "sample.label = 3, but the model has no"),
    ("digits_gan", {"sample.task": "reconstruct"}, "reconstruct.*Known: sample"),
    ("digits_gan", {"optim.decay_start": 2}, "decay_start.*set both"),
    ("digits_dcgan", {"model.disc_norm": "nosuch"}, "nosuch.*batch, none"),
    ("digits_cyclegan", {"cyclegan.pool_size": -1}, "cyclegan.pool_size"),
    ("digits_cyclegan", {"cyclegan.loss": "nosuch"}, "nosuch.*least_squares"),
    ("digits_cyclegan", {"sample.task": "sample"}, "sample.*Known: translate"),
    ("digits_pix2pix", {"data.source": "digits"}, "with a condition.*low_res:FACTOR"),
    ("digits_pix2pix", {"pix2pix.l1_weight": -1.0}, "pix2pix.l1_weight.*-1"),
    ("digits_pix2pix", {"pix2pix.loss": "nosuch"}, "nosuch.*least_squares"),
    ("digits_pix2pix", {"model.num_levels": 4}, "U-Net.*multiple of 16.*it is 8"),
    ("digits_pix2pix", {"pix2pix.loss": "wasserstein"}, "wasserstein.*least_squares"),
    ("digits_classifier", {"model.num_classes": 1}, "num_classes"),
    ("digits_classifier", {"optim.ema_decay": 1.0}, "ema_decay"),
    # text
    (
        "python_docs_gru",
        {"data.context": 10**6},
        "has .* tokens.*data.context = 1000000",
    ),
    ("reverse_attention", {"data.source": "digits"}, "Unknown.*digits.*reverse"),
    ("reverse_attention", {"data.source": "pairs:nosuch"}, "no file .*nosuch"),
    ("reverse_attention", {"data.max_length": 1}, "longer than data.max_length = 1"),
    ("reverse_attention", {"data.train_split": "all"}, "split.*all.*Known: train"),
    ("reverse_attention", {"model.attention": "nosuch"}, "nosuch.*none, additive"),
    ("reverse_attention", {"sample.prompt": "1a"}, "sample.prompt contains 'a'"),
    ("reverse_attention", {"seq2seq.label_smoothing": 1.0}, "label_smoothing"),
    ("reverse_rnn", {"sample.task": "align"}, "attention 'none' has no alignment"),
    ("python_docs_gru", {"data.source": "digits"}, "Unknown.*digits.*python_docs"),
    ("python_docs_gru", {"data.source": "text:nosuch"}, "no file .*nosuch"),
    ("python_docs_gru", {"data.vocabulary": "nosuch"}, "nosuch.*characters, words"),
    ("python_docs_gru", {"model.cell": "nosuch"}, "nosuch.*lstm, gru"),
    ("python_docs_gru", {"model.name": "nosuch"}, "nosuch.*recurrent"),
    ("python_docs_gru", {"sample.prompt": "\u2603"}, "sample.prompt contains '\u2603'"),
    (
        "python_docs_gru",
        {"eval.metric": "samples", "train.evaluate_every": 2},
        "eval.metric of a language_model 'samples'. Known: bits_per_character",
    ),
    (
        "python_docs_gru",
        {"eval.split": "train", "train.evaluate_every": 2},
        "eval.split 'train' are also in data.train_split.*held-out",
    ),
]


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(
    "name, changes, words",
    REFUSED,
    ids=[f"{name}-{next(iter(changes))}" for name, changes, _ in REFUSED],
)
def test_refused_before_compilation(name, changes, words, data, monkeypatch):
    """What cannot work is refused in one sentence; nothing is compiled or written."""
    monkeypatch.chdir(data)
    config = load(name)
    config.update_from_flattened_dict(changes)
    with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
        train(config, data / "run")
    assert "\n" not in str(error.value)
    assert not (data / "run").exists()


@pytest.mark.usefixtures("uncompiled")
def test_penalty_with_batch_statistics(data):
    """A penalty on each image's gradient excludes batch statistics."""
    images = np.zeros((8, 16, 16, 1), np.uint8)
    np.savez(data / "many.npz", images=images)
    config = load("digits_dcgan", data__source=f"npz:{data}/many.npz")
    config.data.image_size = 16  # at 8 pixels no layer has statistics
    config.gan.gradient_penalty = 10.0
    with pytest.raises(ValueError, match="model.disc_norm to none, or both weights"):
        train(config, data / "run")
    assert not (data / "run").exists()


@pytest.mark.usefixtures("uncompiled")
def test_unet_that_cannot_halve(data):
    """The error about a wrong size says which sizes the U-Net of pix2pix takes."""
    config = load("digits_cyclegan")
    with config.unlocked():
        config.model = {
            "name": "unet",
            "base_channels": 4,
            "num_levels": 4,
            "disc_channels": 4,
            "disc_layers": 1,
        }
    with pytest.raises(ValueError, match="U-Net.*multiple of 16.*it is 8"):
        train(config, data / "run")
    assert not (data / "run").exists()
