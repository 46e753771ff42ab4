"""From a source to a checked, split and measured data set, which all workers of a machine share."""
