//! Lines arrive where their keys lead, on every path, and nothing else is touched.

use tachyon_kernels::{
    Path,
    copy::{self, Line, Places},
    prefetch_write_lines,
};

/// Stacks of lines by key, each with so much room; the first line of a stack belongs to nobody.
struct Stacks {
    stacks: Vec<Vec<Line>>,
    used: Vec<usize>,
}

impl Stacks {
    fn of(rooms: &[usize]) -> Self {
        Self { stacks: rooms.iter().map(|room| vec![[0; 64]; room + 1]).collect(), used: vec![0; rooms.len()] }
    }
}

impl Places<u8> for Stacks {
    #[inline(always)]
    fn next(&mut self, key: u8) -> Option<&mut Line> {
        let used = self.used.get_mut(usize::from(key))?;
        let place = self.stacks[usize::from(key)].get_mut(*used + 1)?;
        *used += 1;
        Some(place)
    }
}

fn check(rooms: &[usize], lines: &[Line], keys: &[u8]) {
    let mut expected = Stacks::of(rooms);
    let copied = lines.iter().zip(keys).take_while(|(line, key)| {
        let place = expected.next(**key);
        place.map(|place| *place = **line).is_some()
    });
    let copied = copied.count();
    for path in Path::all() {
        let mut got = Stacks::of(rooms);
        assert_eq!(copy::copy_lines(path, lines, keys, &mut got), copied, "{}", path.name());
        assert_eq!((&got.stacks, &got.used), (&expected.stacks, &expected.used), "{}", path.name());
    }
}

#[test]
fn lines_go_where_their_keys_lead_up_to_the_first_without_a_place() {
    let lines: Vec<Line> =
        (0..40_u8).map(|number| core::array::from_fn(|at| number ^ u8::try_from(at).unwrap() << 2)).collect();
    let keys: Vec<u8> = (0..40).map(|number| number % 5 * 2 % 5).collect();
    for rooms in [[8, 8, 8, 8, 8], [8, 8, 3, 8, 8], [0, 8, 8, 8, 8], [8, 8, 8, 8, 1]] {
        for count in 0..=lines.len() {
            check(&rooms, &lines[..count], &keys);
            check(&rooms, &lines, &keys[..count]);
        }
    }
    check(&[40, 40, 40, 40], &lines, &keys); // the fifth key leads nowhere
}

#[test]
fn lines_that_are_asked_for_stay_as_they_are() {
    let lines = [[7; 64]; 9];
    (0..=lines.len()).for_each(|count| prefetch_write_lines(&lines[..count]));
    assert_eq!(lines, [[7; 64]; 9]);
}
