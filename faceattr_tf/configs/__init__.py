"""Recipes: named functions that give a complete, typed configuration of a run.

Each docstring holds the paper, the command, and the result measured beside the one published.
"""

from collections.abc import Callable

from faceattr_tf.configs import (
    cascade_cnn,
    demo,
    facestn,
    flickr,
    fusion,
    inception,
    lnets_anet,
    mobilenet,
    resnet_small,
    smoke,
    tcdcn,
)
from faceattr_tf.configs.base import Data, Model, Phase, Recipe, TaskConfig

RECIPES: dict[str, Callable[[], Recipe]] = {
    "anet": lnets_anet.anet,
    "anet_identity": lnets_anet.anet_identity,
    "anet_svm": lnets_anet.anet_svm,
    "cascade_cnn_mtfl": cascade_cnn.mtfl,
    "cascade_cnn_mtfl_best": cascade_cnn.mtfl_best,
    "demo": demo.demo,
    "faceattr_joint": flickr.faceattr_joint,
    "facestn_celeba": facestn.celeba,
    "facestn_celeba_aligned": facestn.celeba_aligned,
    "facestn_celeba_unaligned": facestn.celeba_unaligned,
    "facestn_celeba_small": facestn.celeba_small,
    "facestn_celeba_small_aligned": facestn.celeba_small_aligned,
    "facestn_celeba_small_unaligned": facestn.celeba_small_unaligned,
    "facestn_lfwa": facestn.lfwa,
    "facestn_lfwa_aligned": facestn.lfwa_aligned,
    "facestn_lfwa_unaligned": facestn.lfwa_unaligned,
    "facestn_mtfl": facestn.mtfl,
    "facestn_mtfl_aligned": facestn.mtfl_aligned,
    "facestn_mtfl_unaligned": facestn.mtfl_unaligned,
    "facetracer_celeba": lnets_anet.facetracer_celeba,
    "facetracer_lfwa": lnets_anet.facetracer_lfwa,
    "flickr_branches": flickr.branches,
    "flickr_identity": flickr.identity,
    "flickr_identity_small": flickr.identity_small,
    "fusion_age": fusion.age,
    "fusion_age_small": fusion.age_small,
    "fusion_attributes": fusion.attributes,
    "fusion_attributes_small": fusion.attributes_small,
    "fusion_faces": fusion.faces,
    "fusion_faces_small": fusion.faces_small,
    "fusion_identity": fusion.identity,
    "fusion_identity_small": fusion.identity_small,
    "fusion_objects": fusion.objects,
    "fusion_objects_small": fusion.objects_small,
    "fusion_race": fusion.race,
    "fusion_race_small": fusion.race_small,
    "inception_bottleneck_celeba": inception.bottleneck_celeba,
    "inception_bottleneck_celeba_best": inception.bottleneck_celeba_best,
    "inception_bottleneck_mtfl": inception.bottleneck_mtfl,
    "inception_bottleneck_mtfl_best": inception.bottleneck_mtfl_best,
    "inception_bottleneck_mtfl_joint": inception.bottleneck_mtfl_joint,
    "inception_bottleneck_mtfl_nose": inception.bottleneck_mtfl_nose,
    "inception_full_celeba": inception.full_celeba,
    "inception_full_celeba_best": inception.full_celeba_best,
    "inception_full_mtfl": inception.full_mtfl,
    "inception_full_mtfl_best": inception.full_mtfl_best,
    "inception_full_mtfl_joint": inception.full_mtfl_joint,
    "inception_full_mtfl_nose": inception.full_mtfl_nose,
    "lnet_o": lnets_anet.lnet_o,
    "lnet_o_scratch": lnets_anet.lnet_o_scratch,
    "lnet_plus": lnets_anet.lnet_plus,
    "lnet_s": lnets_anet.lnet_s,
    "mobilenet_celeba": mobilenet.celeba,
    "mobilenet_lfwa": mobilenet.lfwa,
    "off_the_shelf": lnets_anet.off_the_shelf,
    "panda_celeba": lnets_anet.panda_celeba,
    "panda_lfwa": lnets_anet.panda_lfwa,
    "resnet_small_celeba": resnet_small.celeba,
    "resnet_small_celeba_best": resnet_small.celeba_best,
    "resnet_small_identity": resnet_small.identity,
    "resnet_small_mtfl": resnet_small.mtfl,
    "resnet_small_mtfl_best": resnet_small.mtfl_best,
    "resnet_small_mtfl_fine": resnet_small.mtfl_fine,
    "smoke": smoke.smoke,
    "tcdcn_celeba": tcdcn.celeba,
    "tcdcn_mtfl": tcdcn.mtfl,
    "tcdcn_mtfl_best": tcdcn.mtfl_best,
    "tcdcn_multitask_mtfl": tcdcn.multitask_mtfl,
    "tcdcn_multitask_mtfl_best": tcdcn.multitask_mtfl_best,
}

__all__ = ["RECIPES", "Data", "Model", "Phase", "Recipe", "TaskConfig", "create_recipe"]


def create_recipe(name: str) -> Recipe:
    """The recipe of that name, ready to be changed by flags.

    Raises:
        ValueError: there is none; the message lists those that exist.
    """
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; there are: {', '.join(sorted(RECIPES))}")
    recipe = RECIPES[name]()
    recipe.name = name
    return recipe
