"""Trains on Cloud TPUs, through gcloud: `./launch.sh tpu`."""
