"""OpenMMLab's packages as parts: models, data sets, transforms, metrics; never its Runner.

Nothing here is imported before a detection or segmentation run; ``extras.require`` says in one line what is missing.
"""
