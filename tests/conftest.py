"""No property is judged by the time an example takes."""

from hypothesis import settings

settings.register_profile("hpo", deadline=None)
settings.load_profile("hpo")
