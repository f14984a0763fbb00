"""Training a prior on your own images, as ``invdiff train`` does."""

from invdiff.training.data import Images, load_images
from invdiff.training.loop import Report, train
from invdiff.training.settings import Settings
from invdiff.training.validation import VALIDATION_SIGMAS, denoising_psnr

__all__ = ["VALIDATION_SIGMAS", "Images", "Report", "Settings", "denoising_psnr", "load_images", "train"]
