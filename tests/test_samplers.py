"""What stands where in training streams, as NumPy alone decides it, and records read at random."""

import collections

import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.formats.tfrecord import RecordFiles
from data_pipelines.input.samplers import OfPeople, Shuffled
from data_pipelines.input.stream import mixing_pattern

SIZES = {40: 9, 7: 6, 12: 5, 5: 4, 1: 2, 4: 1}
"""Person -> images of the first source, in which three more show nobody known."""
FIRST = np.random.default_rng(0).permutation([*np.repeat([*SIZES], [*SIZES.values()]), -1, -1, -1])
SECOND = np.array([7, 99, 99, 7, 99, 99, 7])
K = 4


def groups(identities, begin, count, images=K, weights=None, seed=3):
    """People, `(source, row)` pairs and times shown of so many groups, `[count, K]` each."""
    weights = weights or [float((one >= 0).sum()) for one in identities]
    sampler = OfPeople(identities, weights, images, seed)
    sources, rows, shown = sampler.at(begin * images, count * images)
    people = [identities[source][row] for source, row in zip(sources, rows, strict=True)]
    pairs = np.stack([sources, rows], axis=1)
    return np.reshape(people, (-1, images)), pairs.reshape(-1, images, 2), shown.reshape(-1, images)


def test_a_group_shows_one_person_and_no_image_twice_while_there_are_others():
    people, pairs, _ = groups([FIRST], 0, 200)
    assert (people == people[:, :1]).all() and (people >= 0).all()
    for person, group in zip(people[:, 0], pairs, strict=True):
        distinct = collections.Counter(map(tuple, group.tolist()))
        assert len(distinct) == min(K, SIZES[person])
        # Those of people who have fewer repeat evenly.
        assert max(distinct.values()) - min(distinct.values()) <= 1


def test_every_round_shows_every_image_equally_often_and_leads_with_each_once():
    known = (FIRST >= 0).sum()
    for begin in (0, known, 5 * known):
        people, pairs, shown = groups([FIRST], begin, known)
        counts = collections.Counter(map(tuple, pairs.reshape(-1, 2).tolist()))
        assert set(counts.values()) == {K} and len(counts) == known
        assert len({tuple(pair) for pair in pairs[:, 0].tolist()}) == known
        assert collections.Counter(people[:, 0].tolist()) == SIZES
        np.testing.assert_array_equal(shown, np.tile(begin // known * K + np.arange(K), (known, 1)))


def test_images_meet_others_of_their_person_in_every_round():
    known = (FIRST >= 0).sum()
    _, pairs, _ = groups([FIRST], 0, 8 * known)
    of_person = np.flatnonzero(FIRST == 40)
    met = {row: set() for row in of_person.tolist()}
    for group in pairs[:, :, 1].tolist():
        for row in set(group) & set(met):
            met[row] |= set(group)
    assert all(found == set(of_person.tolist()) for found in met.values())


def test_people_who_are_in_two_sources_are_one():
    people, pairs, _ = groups([FIRST, SECOND], 0, 34)
    assert (people == people[:, :1]).all()
    of_seven = [group for group in pairs.tolist() if FIRST[group[0][1]] == 7 or group[0][0] == 1]
    mixed = [group for group in of_seven if len({source for source, _ in group}) == 2]
    assert mixed


def test_sources_lead_groups_by_their_weights():
    _, pairs, _ = groups([FIRST, SECOND], 0, 1000, weights=[1.0, 3.0])
    np.testing.assert_array_equal(np.bincount(pairs[:, 0, 0]), [250, 750])


@pytest.mark.parametrize("weights", [(202_599, 90), (9_000, 100, 20), (0.9995, 0.0005), (3, 1, 0)])
def test_small_sources_have_their_shares_too(weights):
    shares = np.array(weights) / sum(weights)
    found = np.bincount(mixing_pattern(weights), minlength=len(weights))
    np.testing.assert_allclose(found / found.sum(), shares, rtol=0.05)
    # None of them is cut: its next epoch begins when all of its examples were shown.
    sources, rows, _ = Shuffled([50, 3, 1][: len(weights)], weights, seed=0).at(0, 20_000)
    for source, count in zip(range(len(weights)), (50, 3, 1), strict=False):
        own = rows[sources == source]
        for epoch in range(len(own) // count):
            assert set(own[epoch * count : (epoch + 1) * count]) == set(range(count))


def test_a_source_that_would_hardly_ever_be_shown_is_refused():
    with pytest.raises(UserError, match="hardly ever shown; expected 0, or 1 of 1,000,000"):
        mixing_pattern([1e9, 1])


@pytest.mark.parametrize(("begin", "count"), [(0, 1), (5, 2), (7, 9), (120, 40), (2003, 17)])
def test_any_places_are_those_of_the_whole(begin, count):
    whole = OfPeople([FIRST, SECOND], [0.7, 0.3], K, 1).at(0, 2020)
    part = OfPeople([FIRST, SECOND], [0.7, 0.3], K, 1).at(begin, count)
    for one, other in zip(whole, part, strict=True):
        np.testing.assert_array_equal(one[begin : begin + count], other)


def test_the_seed_decides():
    one, other = (groups([FIRST], 0, 30, seed=seed)[1] for seed in (1, 2))
    assert (one != other).any()


def test_what_cannot_stand_together_is_refused():
    with pytest.raises(UserError, match="images_per_person 1: expected 0, or at least 2"):
        OfPeople([FIRST], [1.0], 1, 0)
    with pytest.raises(UserError, match="a source knows nobody"):
        OfPeople([FIRST, np.full(3, -1)], [1.0, 1.0], K, 0)


@pytest.fixture
def shards(tmp_path):
    """Two files of examples of other lengths, an empty one between them."""
    import tensorflow as tf

    paths = [tmp_path / name for name in "abc"]
    for path, count in zip(paths, (5, 0, 3), strict=True):
        with tf.io.TFRecordWriter(str(path)) as writer:
            for index in range(count):
                writer.write(f"{path.name}{index}".encode() * (7 * index + 1))
    return paths


def test_records_are_read_in_any_order(shards):
    import tensorflow as tf

    stored = list(tf.data.TFRecordDataset(list(map(str, shards))).as_numpy_iterator())
    files = RecordFiles(shards)
    assert len(files) == len(stored) == 8
    rows = np.array([7, 0, 4, 4, 5, 1])
    assert files.read(rows).tolist() == [stored[row] for row in rows]


def test_files_that_are_not_whole_are_named(shards):
    files, data = RecordFiles(shards), shards[2].read_bytes()
    shards[2].write_bytes(data[:-9])
    with pytest.raises(ValueError, match="c: not as it was built"):
        files.read(np.array([7]))
    for cut in (1, 9, 30, len(data) - 5):
        shards[2].write_bytes(data[:-cut])
        with pytest.raises(UserError, match="c: not a whole file of records"):
            RecordFiles(shards)
    shards[2].unlink()
    with pytest.raises(ValueError, match="c: No such file"):
        files.read(np.array([7]))
