"""Loading, refusing, standardising and splitting data."""

import contextlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import datasets as sklearn_datasets

from jaxflow.problems import DATASETS, Dataset, load, mlp, split

SIZES = {
    "breast_cancer": (569, 30, 2),
    "diabetes": (442, 10, None),
    "digits": (1797, 64, 10),
    "iris": (150, 4, 3),
    "wine": (178, 13, 3),
}


@pytest.mark.parametrize("name", DATASETS)
def test_the_bundled_sets(name):
    examples, features, classes = SIZES[name]
    dataset = load(name)
    bunch = getattr(sklearn_datasets, f"load_{name}")()
    np.testing.assert_array_equal(dataset.x, bunch.data)
    np.testing.assert_array_equal(dataset.y.reshape(-1), bunch.target)
    assert dataset.x.shape == (examples, features)
    assert (dataset.classes and len(dataset.classes)) == classes
    assert dataset.kind == ("regression" if classes is None else "classification")
    train, test = split(dataset)
    held_out = -(-examples // 5)
    assert (len(train["x"]), len(test["x"])) == (examples - held_out, held_out)
    assert all(len(part["x"]) == len(part["y"]) for part in (train, test))


def numbered(n, y, **kind):
    """A data set whose one feature is the example's number, so that a split can be read off it."""
    return load((np.arange(n)[:, None], y), **kind)


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.2, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("n", [2, 3, 10, 97])
def test_every_example_is_in_exactly_one_part(n, fraction):
    y = np.random.default_rng(n).normal(size=n)
    train, test = split(numbered(n, y), fraction, standardize=False)
    found = np.concatenate([np.asarray(part["x"])[:, 0] for part in (train, test)])
    assert sorted(found) == list(range(n))
    assert len(test["x"]) == min(max(int(np.ceil(round(fraction * n, 6))), 1), n - 1)
    for part in (train, test):
        index = np.asarray(part["x"])[:, 0].astype(int)
        assert (np.diff(index) > 0).all()
        np.testing.assert_array_equal(np.asarray(part["y"])[:, 0], y[index])


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.35])
def test_classes_are_held_out_in_proportion(fraction):
    y = np.random.default_rng(0).choice(4, 500, p=[0.55, 0.3, 0.1, 0.05])
    _, test = split(numbered(500, y), fraction)
    held_out = np.bincount(test["y"], minlength=4)
    assert (abs(held_out - fraction * np.bincount(y)) <= 1).all()


def test_no_fraction_holds_nothing_out():
    train, test = split(load("iris"), 0.0)
    assert test is None
    assert len(train["x"]) == 150
    assert mlp("iris", test_fraction=0).test is None


def test_standardised_by_the_training_examples_alone():
    rng = np.random.default_rng(0)
    x, y = rng.normal(3.0, 5.0, (50, 4)), rng.normal(-2.0, 9.0, 50)
    train, test = split(load((x, y)))
    raw_train, raw_test = split(load((x, y)), standardize=False)
    for name in "xy":
        mean, std = np.asarray(raw_train[name]).mean(axis=0), np.asarray(raw_train[name]).std(axis=0)
        np.testing.assert_allclose(np.asarray(train[name]).mean(axis=0), 0.0, atol=1e-14)
        np.testing.assert_allclose(np.asarray(train[name]).std(axis=0), 1.0, rtol=1e-13)
        np.testing.assert_allclose(test[name], (np.asarray(raw_test[name]) - mean) / std, rtol=1e-10)


def test_nothing_leaks_from_the_held_out_examples():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 4)), rng.integers(3, size=50)
    held_out = np.isin(x[:, 0], np.asarray(split(load((x, y)), standardize=False)[1]["x"])[:, 0])
    changed = np.where(held_out[:, None], 1e3 * x, x)
    np.testing.assert_array_equal(split(load((x, y)))[0]["x"], split(load((changed, y)))[0]["x"])


@pytest.mark.parametrize("value", [0.0, 0.1, -7e8])
def test_constant_features_become_zero(value):
    x = np.column_stack([np.full(30, value), np.arange(30)])
    train, test = split(load((x, np.arange(30) % 2)))
    assert not np.asarray(train["x"])[:, 0].any()
    assert not np.asarray(test["x"])[:, 0].any()
    assert all(np.isfinite(part["x"]).all() for part in split(load("digits")))


def test_the_split_is_in_jax_arrays_of_the_default_dtypes():
    train, _ = split(load("iris"))
    assert isinstance(train["x"], jnp.ndarray)
    assert (train["x"].dtype, train["y"].dtype) == (jnp.float64, jnp.int32)


@pytest.mark.parametrize(
    ("y", "kind", "classes"),
    [
        ([0, 1, 2, 1], None, (0, 1, 2)),
        ([0.0, 1.0, 1.0, 1.0], None, (0, 1)),
        ([True, False, True, True], None, (0, 1)),
        ([-1, 1, 1, -1], None, (-1, 1)),
        ([[7], [3], [3], [7]], None, (3, 7)),
        ([0.5, 1.0, 2.0, 3.0], None, None),
        ([0, 1, 2, 1], "regression", None),
        ([[0, 1], [1, 0], [1, 1], [0, 0]], None, None),
    ],
)
def test_labels_or_targets(y, kind, classes):
    dataset = load((np.zeros((4, 2)), y), kind=kind)
    assert dataset.classes == classes
    if classes is None:
        np.testing.assert_array_equal(dataset.y, np.asarray(y, float).reshape(4, -1))
    else:
        np.testing.assert_array_equal(np.asarray(classes)[dataset.y], np.asarray(y).ravel())


def test_more_than_twenty_integers_are_a_regression_unless_said_otherwise():
    assert numbered(40, np.arange(40) % 20).kind == "classification"
    assert numbered(42, np.arange(42) % 21).kind == "regression"
    assert len(numbered(42, np.arange(42) % 21, kind="classification").classes) == 21


def test_features_of_any_shape_are_flattened():
    assert load((np.zeros((3, 8, 8)), [0, 1, 0])).x.shape == (3, 64)
    assert load((jnp.zeros(3, jnp.bfloat16), [0, 1, 0])).x.shape == (3, 1)


def test_a_data_set_passes_through():
    dataset = load("iris")
    assert load(dataset) is dataset
    assert load(dataset, kind="classification") is dataset
    with pytest.raises(ValueError, match="load it anew"):
        load(dataset, kind="regression")
    assert isinstance(load("iris", kind="regression"), Dataset)


CSV = "1.5,2,0\n3,4e-1,1\n\n-5,6,1\n"


@pytest.mark.parametrize(
    "text", [CSV, "a,b,label\n" + CSV, "\ufeffa,b,label\n" + CSV, CSV.replace("\n", "\r\n")]
)
def test_a_csv_file(tmp_path, text):
    path = tmp_path / "mine.CSV"
    path.write_bytes(text.encode())
    for given in (path, str(path)):
        dataset = load(given)
        np.testing.assert_array_equal(dataset.x, [[1.5, 2.0], [3.0, 0.4], [-5.0, 6.0]])
        assert (dataset.y.tolist(), dataset.classes, dataset.name) == ([0, 1, 1], (0, 1), "mine.CSV")


def test_a_npz_file(tmp_path):
    path = tmp_path / "mine.npz"
    x, y = np.random.default_rng(0).normal(size=(2, 30))
    np.savez(path, x=x[:, None].astype(np.float32), y=y, other=3)
    dataset = load(path)
    np.testing.assert_array_equal(dataset.x[:, 0], x.astype(np.float32))
    np.testing.assert_array_equal(dataset.y[:, 0], y)
    problem = mlp(str(path), hidden=(3,))
    assert problem.name == "mlp on mine.npz"
    assert jnp.isfinite(problem.objective(problem.params))


def test_a_path_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.csv").write_text(CSV)
    assert load("~/mine.csv").x.shape == (3, 2)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.csv", "", "empty.csv' is empty"),
        ("empty.npz", "", "empty.npz' is empty"),
        ("blank.csv", "\n\n  \n", "no examples"),
        ("header.csv", "a,b,label\n", "no examples"),
        ("ragged.csv", "1,2,0\n3,4,1\n5,1\n", "Line 3 of .*ragged.csv' has 2 entries, .* 3"),
        ("ragged_header.csv", "a,label\n1,2,0\n", "Line 2 of .* has 3 entries, .* 2"),
        ("words.csv", "1,2,0\n\n3,four,1\n", "words.csv' .* finite number, got 'four' in line 3, column 2"),
        ("blank_entry.csv", "1,2,0\n3,,1\n", "got '' in line 2, column 2"),
        ("underscore.csv", "1,2,0\n1_0,3,1\n", "finite number, got '1_0' in line 2, column 1"),
        ("digits.csv", "1,2,0\n١,3,1\n", "finite number, got '١' in line 2, column 1"),
        ("blank_cell.csv", "a,b\n1,0\n,1\n", "got '' in line 3, column 1: fill it in, .* encode"),
        ("blank_label.csv", "a,b\n1,no\n2,\n", "got '' in line 3, column 2: labels must all"),
        ("mixed_labels.csv", "a,b\n1,no\n2,1\n", "got 'no' in line 2, column 2: labels must all be words or"),
        (
            "category.csv",
            "a,b\nred,0\nblue,1\n",
            "got 'red' in line 2, column 1: give a column of words .* encode",
        ),
        ("one_word.csv", "a,b\n1,no\n2,no\n", "labels of one_word.csv are all 'no'"),
        ("free_text.csv", "a,b\n" + "".join(f"{i},w{i}\n" for i in range(21)), "are all different"),
        ("mixed_header.csv", "a,2,label\n1,2,0\n", "got 'a' in line 1, column 1"),
        ("nan.csv", "1,nan,0\n2,3,1\n", "got 'nan' in line 1, column 2"),
        ("inf.csv", "1,2,0\n2,3,-inf\n", "got '-inf' in line 2, column 3"),
        ("narrow.csv", "1\n2\n", "two comma-separated columns"),
        ("binary.csv", b"\xff\xfe\x00\x81", "not a text file"),
        ("one.csv", "1,2,0\n", "one.csv must have at least 2 examples, got 1"),
        ("same.csv", "1,3\n2,3\n", "same.csv are all 3"),
        ("text.npz", "hello", "not a readable .npz"),
        ("data.txt", "1,2,0\n", "must end in .csv or .npz"),
        ("no_x.npz", {"y": [0, 1]}, "arrays x and y: x missing, found y"),
        ("neither.npz", {"a": [0], "b": [1]}, "x and y missing, found a, b"),
        ("nothing.npz", {}, "found nothing"),
        ("objects.npz", {"x": np.array([{}, {}]), "y": [0, 1]}, "not a readable .npz archive of numbers"),
        ("strings.npz", {"x": ["a", "b"], "y": [0, 1]}, "x of strings.npz must hold real numbers"),
        ("complex.npz", {"x": [1j, 2], "y": [0, 1]}, "must hold real numbers, got dtype complex"),
        ("lengths.npz", {"x": [[1.0], [2.0]], "y": [0, 1, 1]}, "the same number of examples, got 2 and 3"),
        ("nan.npz", {"x": [[1.0, 2.0], [3.0, np.nan]], "y": [0, 1]}, r"x of nan.npz .* got nan at \[1, 1\]"),
        ("scalar.npz", {"x": 1.0, "y": 2.0}, "shape"),
        ("no_features.npz", {"x": np.zeros((3, 0)), "y": [0, 1, 1]}, "shape"),
        ("deep.npz", {"x": np.zeros((2, 1)), "y": np.zeros((2, 1, 1))}, "shape"),
    ],
)
def test_bad_files(tmp_path, name, content, words):
    path = tmp_path / name
    if isinstance(content, dict):
        np.savez(path, **content)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=words) as raised:
        load(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "x", "warns"),
    [
        ("0,1,2\n.5,1.5,0\n2.5,3.5,1\n", [[0.5, 1.5], [2.5, 3.5]], None),  # in a column of fractions
        ("1,2,3\n5,6,0\n7,8,1\n", [[5, 6], [7, 8]], None),  # a label that no example has
        ("0,1,2,label\n5,6,7,0\n7,8,9,1\n", [[5, 6, 7], [7, 8, 9]], None),
        ("2019,2020,2021,label\n5,6,7,0\n7,8,9,1\n", [[5, 6, 7], [7, 8, 9]], None),
        (",0,1,2\n0,5.5,6,0\n1,7.5,8,1\n", [[5.5, 6], [7.5, 8]], None),  # pandas' index as well
        ("\ufeff0,1,2\n.5,1.5,0\n2.5,3.5,1\n", [[0.5, 1.5], [2.5, 3.5]], None),
        ("0,1\n5,0\n6,1\n", [[5], [6]], "taken for names"),
        ("0,0,1\n5,6,0\n7,8,1\n", [[0, 0], [5, 6], [7, 8]], None),
        (
            "400,410,420\n" + "1,2,0\n3,4,1\n" * 5,
            [[400, 410], *[[1, 2], [3, 4]] * 5],
            "taken for an example",
        ),
    ],
)
def test_a_header_of_numbers_is_told_by_the_whole_file(tmp_path, text, x, warns):
    (tmp_path / "mine.csv").write_text(text)
    with pytest.warns(UserWarning, match=warns) if warns else contextlib.nullcontext():
        dataset = load(tmp_path / "mine.csv")
    np.testing.assert_array_equal(dataset.x, x)


@pytest.mark.parametrize("header", ["length,kind\n", ""])
def test_labels_that_are_words_are_classes_by_name(tmp_path, header):
    (tmp_path / "mine.csv").write_text(header + "1.5,pear\n2.5,apple\n3.5,pear\n4.5,fig\n")
    dataset = load(tmp_path / "mine.csv")
    assert dataset.classes == ("apple", "fig", "pear")
    assert dataset.y.tolist() == [2, 0, 2, 1]
    assert mlp(dataset, (2,)).classes == dataset.classes
    with pytest.raises(ValueError, match="labels such as 'apple', so it must be a classification"):
        load(tmp_path / "mine.csv", kind="regression")


@pytest.mark.parametrize("kind", [str, object, "S"])
def test_labels_that_are_words_in_arrays_and_archives(tmp_path, kind):
    labels = np.array(["b", "a", "b"]).astype(kind)
    dataset = load((np.arange(3.0), labels))
    assert (dataset.classes, dataset.y.tolist()) == (("a", "b"), [1, 0, 1])
    if kind is not object:
        np.savez(tmp_path / "mine.npz", x=np.arange(3.0), y=labels)
        assert load(tmp_path / "mine.npz").classes == ("a", "b")


def test_words_and_blanks_are_encoded_where_asked(tmp_path):
    (tmp_path / "mine.csv").write_text("size,colour,target\n1,red,.5\n,blue,1.5\n3,,2.5\n8,red,3.5\n")
    x = load(tmp_path / "mine.csv", encode=True).x
    np.testing.assert_array_equal(x[:, :2], [[1, 0], [4, 1], [3, 0], [8, 0]])  # 4 is the mean of 1, 3, 8
    np.testing.assert_array_equal(x[:, 2:], [[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1]])
    with pytest.raises(ValueError, match=r"encode must be left out unless dataset is a \.csv file"):
        load("iris", encode=True)


def test_an_encrypted_or_oddly_compressed_archive(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, x=np.arange(3.0), y=np.arange(3))
    whole = path.read_bytes()
    # Flags and method follow the signature of a file's header, 6 and 8 bytes behind it; 8 and 10 in the directory.
    for at, value, words in ((0, 1, "it is encrypted"), (2, 97, "it is compressed in another way")):
        changed = bytearray(whole)
        for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            place = changed.find(signature)
            while place >= 0:
                changed[place + offset + at] = value
                place = changed.find(signature, place + 1)
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=f"not a readable .npz archive of numbers: {words}"):
            load(path)


def test_a_network_larger_than_memory_is_refused():
    with pytest.raises(ValueError, match=r"hidden must fit in memory, got \(10000000, 10000000\), .* GiB"):
        mlp("iris", (10_000_000, 10_000_000))


def test_a_damaged_archive(tmp_path):
    path = tmp_path / "cut.npz"
    np.savez_compressed(path, x=np.arange(4000.0), y=np.arange(4000) % 2)
    whole = path.read_bytes()
    for damaged in (whole[:200], whole[:60] + b"\0" * 100 + whole[160:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="not a readable"):
            load(path)


@pytest.mark.parametrize(
    ("dataset", "kind", "error", "words"),
    [
        ("digit", None, ValueError, "Did you mean 'digits'"),
        ("mnist", None, ValueError, "breast_cancer, diabetes, digits, iris, wine"),
        ("nowhere.csv", None, FileNotFoundError, "no data file 'nowhere.csv'"),
        (Path("nowhere.npz"), None, FileNotFoundError, "nowhere.npz"),
        (Path("nowhere"), None, ValueError, "must end in .csv or .npz"),
        (3, None, TypeError, "got int"),
        (([1.0, 2.0],), None, TypeError, "got tuple"),
        (([[1.0], [2.0, 3.0]], [0, 1]), None, ValueError, "x of the given data is not rectangular"),
        (([1.0, np.inf], [0, 1]), None, ValueError, "got inf at"),
        (([1.0, 2.0], [0.5, 1.0]), "classification", ValueError, "integer label"),
        (([1.0, 2.0], [[0, 1], [1, 0]]), "classification", ValueError, "one integer label"),
        ("iris", "classify", ValueError, "Did you mean 'classification'"),
    ],
)
def test_bad_arguments(dataset, kind, error, words):
    with pytest.raises(error, match=words):
        load(dataset, kind=kind)


def test_a_folder_is_not_a_file(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ValueError, match="not a file"):
        load(tmp_path / "folder.csv")


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2])
def test_bad_fractions(fraction):
    with pytest.raises(ValueError, match="test_fraction"):
        split(load("iris"), fraction)
