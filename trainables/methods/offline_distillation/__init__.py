"""Offline distillation, the counterpart of InterCL (Fig. 12b of NCL++)."""
