"""Layered splats in motion: frames in and out, groups, coding, rate control."""
