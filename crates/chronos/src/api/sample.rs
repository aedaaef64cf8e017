//! A sample of how long runs took, and what is said of it.

/// How long runs took, in milliseconds, sorted.
pub(super) struct Sample(Vec<f64>);

impl Sample {
    pub(super) fn new(times: Option<Vec<f64>>) -> Self {
        let mut times = times.unwrap_or_default();
        times.sort_by(f64::total_cmp);
        Self(times)
    }

    /// The value below which this part of the runs lies; 0 of none.
    /// # Source
    /// The estimate that Dropwizard Metrics makes, which showed the figures of Chronos.
    pub(super) fn quantile(&self, part: f64) -> f64 {
        let Self(times) = self;
        let (Some(first), Some(last)) = (times.first(), times.last()) else { return 0.0 };
        #[expect(clippy::cast_precision_loss, reason = "a sample has at most thousands")]
        let place = part * (times.len() + 1) as f64;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and the size of the sample, plus one"
        )]
        let below = place.floor() as usize;
        match (below, times.get(below)) {
            (0, _) => *first,
            (_, None) => *last,
            (_, Some(above)) => times[below - 1] + place.fract() * (above - times[below - 1]),
        }
    }

    pub(super) fn mean(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a sample has at most thousands")]
        let count = self.0.len().max(1) as f64;
        self.0.iter().sum::<f64>() / count
    }

    /// The standard deviation.
    pub(super) fn deviation(&self) -> f64 {
        let mean = self.mean();
        let squares: f64 = self.0.iter().map(|time| (time - mean).powi(2)).sum();
        #[expect(clippy::cast_precision_loss, reason = "a sample has at most thousands")]
        let others = self.0.len().saturating_sub(1).max(1) as f64;
        (squares / others).sqrt()
    }

    pub(super) fn least(&self) -> f64 {
        self.0.first().copied().unwrap_or_default()
    }

    pub(super) fn most(&self) -> f64 {
        self.0.last().copied().unwrap_or_default()
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_the_values_of_a_sample() {
        let sample = Sample::new(Some(vec![30.0, 10.0, 20.0, 40.0]));
        let at = |part| sample.quantile(part);
        assert_eq!((at(0.0), at(0.25), at(0.5), at(0.75), at(0.99)), (10.0, 12.5, 25.0, 37.5, 40.0));
        assert_eq!((sample.mean(), sample.count(), sample.least(), sample.most()), (25.0, 4, 10.0, 40.0));
        assert!((sample.deviation() - 12.9099).abs() < 0.0001);
        let one = Sample::new(Some(vec![7.0]));
        assert_eq!((one.quantile(0.5), one.quantile(0.99), one.deviation()), (7.0, 7.0, 0.0));
        let none = Sample::new(None);
        assert_eq!((none.quantile(0.5), none.mean(), none.deviation()), (0.0, 0.0, 0.0));
    }
}
