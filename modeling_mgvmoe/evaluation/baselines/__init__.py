"""What MG-VMoE is compared with: simpler models over the same encoders, trained and evaluated by the same harness."""
