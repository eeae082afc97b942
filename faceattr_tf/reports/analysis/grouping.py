"""Which attributes a network answers alike: k-means over the heads' weights, figure 10."""

import numpy as np

from data_pipelines.errors import UserError
from faceattr_tf.reports.analysis.subject import Finding, Subject
from faceattr_tf.reports.page import Plot, Section
from faceattr_tf.reports.plots import GREY, SERIES, svg
from faceattr_tf.reports.tables import Table

REPEATED = 10
"""Other seeds with which the stability of the groups is measured."""

_ABOUT = (
    "LNets+ANet, figure 10: k-means over the weight vectors of the heads, one of each attribute. A "
    "weight is multiplied by the deviation of its feature over {count:,} images, and every vector "
    "scaled to length one, so that attributes group by which features decide them, not by how "
    "strongly. k is given ({groups}); with {repeated} other seeds the groups agree by an adjusted "
    "Rand index of {agreement:.2f} (1: the same groups, 0: chance), and their silhouette is "
    "{silhouette:.2f} (above 0: attributes are nearer to their own group than to the next). Low "
    "values mean that the lines between groups are arbitrary. Groups show what goes together in the "
    "training data too: attributes that occur together have similar weights"
)


def grouping(subject: Subject) -> Finding:
    """The attributes in groups by k-means over the weights of their heads.

    Raises:
        UserError: there are fewer attributes than groups, or heads are not linear in what they see.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.metrics import adjusted_rand_score, silhouette_score

    groups, seed = subject.settings.groups, subject.settings.seed
    names, vectors = _vectors(subject)
    if not 2 <= groups < len(names):
        raise UserError(
            f"groups {groups}: expected at least 2 and fewer than the {len(names)} attributes"
        )

    def cluster(seed):
        return KMeans(groups, n_init=20, random_state=seed).fit(vectors).labels_

    found = cluster(seed)
    others = [cluster(seed + 1 + index) for index in range(REPEATED)]
    agreement = float(np.mean([adjusted_rand_score(found, other) for other in others]))
    # Numbered by size, the largest first, so that the numbers do not depend on the seed's whim.
    sizes = np.bincount(found, minlength=groups)
    rank = np.argsort(np.argsort(-sizes, kind="stable"), kind="stable")
    found = rank[found]
    plane = PCA(2, random_state=seed).fit(vectors)
    places, shares = plane.transform(vectors), plane.explained_variance_ratio_
    members = {
        group + 1: [name for name, own in zip(names, found, strict=True) if own == group]
        for group in range(groups)
    }
    numbers = {
        "images": subject.count,
        "groups": members,
        "agreement_of_seeds": agreement,
        "silhouette": float(silhouette_score(vectors, found)),
        "explained_by_plane": float(shares.sum()),
        "places": dict(zip(names, places.tolist(), strict=True)),
    }
    rows = tuple((f"#{group}", str(len(own)), ", ".join(own)) for group, own in members.items())
    table = Table(("Group", "Attributes", "Which"), rows)
    note = (
        f"The first two principal components of the vectors, which hold {shares.sum():.0%} of what "
        "they differ by: neighbours here need not be neighbours in the whole space."
    )
    plot = Plot("Groups of attributes", _drawn(names, places, found), note)
    about = _ABOUT.format(
        count=subject.count,
        groups=groups,
        repeated=REPEATED,
        agreement=agreement,
        silhouette=numbers["silhouette"],
    )
    return Finding(Section("Grouping", about, (table,), (plot,), ()), numbers)


def _vectors(subject: Subject) -> tuple[list[str], np.ndarray]:
    """Names of the attributes, and their weights `[L, F]` as `_ABOUT` says."""
    from faceattr_tf.models.heads import head_layers

    responses = subject.responses(subject.layer())
    names, kernels = [], []
    for task in subject.tasks:
        if task.kind != "multilabel":
            continue
        heads = head_layers(subject.model, task)
        if len(heads) > 1:
            raise UserError(f"task {task.name!r}: its attributes stand on {len(heads)} branches")
        kernel = heads[0].get_weights()[0]
        if len(kernel) != responses.shape[1]:
            raise UserError(
                f"task {task.name!r}: its head sees {len(kernel):,} features, not the "
                f"{responses.shape[1]:,} of the last stage"
            )
        names += task.labels
        kernels.append(kernel)
    if not names:
        raise UserError("the model has no attributes to group")
    vectors = (np.concatenate(kernels, axis=1) * responses.std(axis=0)[:, None]).T
    lengths = np.linalg.norm(vectors, axis=1)
    known = lengths > 0  # a head that always gives the same answer has no direction
    return [name for name, own in zip(names, known, strict=True) if own], (
        vectors[known] / lengths[known, None]
    )


def _drawn(names, places, found) -> str:
    def draw(figure):
        axes = figure.subplots()
        for group in range(found.max() + 1):
            own, colour = found == group, SERIES[group % len(SERIES)]
            axes.scatter(*places[own].T, s=26, color=colour, label=f"#{group + 1}")
        for name, place, group in zip(names, places, found, strict=True):
            axes.annotate(
                name.replace("_", " "),
                place,
                xytext=(4, 3),
                textcoords="offset points",
                fontsize=7,
                color=SERIES[group % len(SERIES)],
            )
        axes.axhline(0, color=GREY, linewidth=0.5)
        axes.axvline(0, color=GREY, linewidth=0.5)
        axes.margins(0.12)
        axes.set(xlabel="first component", ylabel="second component")
        figure.legend(loc="outside upper right", ncols=found.max() + 1)

    return svg(draw, 9, 6.5)
