//! The Gregorian calendar, and how the clock's bytes write it.

/// A date and time of day. Fields may be anything a byte can hold when they come from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DateTime {
    pub second: u8,
    pub minute: u8,
    pub hour: u8,
    /// Sunday is 1.
    pub day_of_week: u8,
    pub date: u8,
    pub month: u8,
    pub year: u32,
}

const DAY: i64 = 86_400;
/// Days from 0000-03-01 to 1970-01-01. Years that begin in March have their leap day at the end.
const EPOCH: i64 = 719_468;
/// Days in 400 years.
const ERA: i64 = 146_097;

impl DateTime {
    /// From seconds since 1970. Years before 0 are year 0.
    pub fn from_unix(seconds: i64) -> Self {
        let days = seconds.div_euclid(DAY);
        let within = seconds.rem_euclid(DAY);
        let (era, day) = ((days + EPOCH).div_euclid(ERA), (days + EPOCH).rem_euclid(ERA));
        let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        // Months from March have 153 days in five.
        let month = (5 * day_of_year + 2) / 153;
        let date = day_of_year - (153 * month + 2) / 5 + 1;
        let january_on = month >= 10;
        let year = era * 400 + year_of_era + i64::from(january_on);
        Self {
            second: (within % 60) as u8,
            minute: (within / 60 % 60) as u8,
            hour: (within / 3600) as u8,
            // 1970 began on a Thursday.
            day_of_week: ((days + 4).rem_euclid(7) + 1) as u8,
            date: date as u8,
            month: if january_on { month - 9 } else { month + 3 } as u8,
            year: u32::try_from(year).unwrap_or(0),
        }
    }

    /// Seconds since 1970. A day or time of day that does not exist runs over into the next.
    pub fn to_unix(self) -> i64 {
        let month = i64::from(self.month.clamp(1, 12));
        let date = i64::from(self.date.clamp(1, 31));
        let year = i64::from(self.year) - i64::from(month <= 2);
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + date - 1;
        let day = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * ERA + day - EPOCH;
        days * DAY + i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second)
    }
}

/// How register B has numbers written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    pub binary: bool,
    pub hours_24: bool,
}

impl Format {
    /// A number below 100.
    pub fn encode(&self, value: u8) -> u8 {
        if self.binary { value } else { ((value / 10) << 4) | (value % 10) }
    }

    pub fn decode(&self, byte: u8) -> u8 {
        if self.binary { byte } else { (byte >> 4) * 10 + (byte & 0xf) }
    }

    /// An hour; in 12-hour format bit 7 is PM.
    pub fn encode_hour(&self, hour: u8) -> u8 {
        if self.hours_24 {
            return self.encode(hour);
        }
        let pm = if hour >= 12 { 0x80 } else { 0 };
        pm | self.encode(match hour % 12 {
            0 => 12,
            hour => hour,
        })
    }

    pub fn decode_hour(&self, byte: u8) -> u8 {
        if self.hours_24 {
            return self.decode(byte);
        }
        let pm = if byte & 0x80 != 0 { 12 } else { 0 };
        self.decode(byte & 0x7f) % 12 + pm
    }
}
