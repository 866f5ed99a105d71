"""The commands. In a checkout they are run as files, once installed as `reslora_sd.train_scripts`."""
